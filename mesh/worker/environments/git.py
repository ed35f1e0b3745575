"""One commit of a git repository at an https URL, as an archive.

Owns how git is kept from doing anything else: no configuration but what is given here, no hooks, submodules, prompts,
credentials, redirects or other protocols, and a connection to an address that was checked before. Nothing is checked
out: the commit becomes a tar, which is unpacked by the same rules as any. Blocks: called in threads, by `fetch`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mesh import settings
from mesh.errors import EnvironmentFailed
from mesh.packages.place import Git
from mesh.worker.environments.resolver import Resolver
from mesh.worker.environments.tools import ToolFailed, Tools
from mesh.worker.environments.work import Work

_FILE_BLOCKS_MAX = 2 * 1024 * 1024
"""Of 512 bytes: of the largest file that git may write."""
_VERSION = re.compile(r"git version (\d+)\.(\d+)")
_OLDEST = (2, 37)
"""Of git: older ones cannot be told which address to connect to."""
_CONFIG = {
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "http.followRedirects": "false",
    "http.proxy": "",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


def archive(place: Git, into: Path, resolver: Resolver, tools: Tools, work: Work) -> Path:
    """Return the commit as a tar in the directory `into`. Raises EnvironmentFailed and Stopped."""
    git = shutil.which("git")
    if git is None:
        raise EnvironmentFailed("the worker has no git", hint="install git where the workers run, or use an archive")
    url = urlsplit(place.url)
    host, port = url.hostname or "", url.port or 443
    addresses = ",".join(f"[{a}]" if ":" in a else a for a in resolver.addresses(host, port))
    config = {**_CONFIG, "http.curloptResolve": f"{host}:{port}:{addresses}"}
    options = tuple(part for name, value in config.items() for part in ("-c", f"{name}={value}"))
    repository, made = into / "repository", into / "archive.tar"

    def run(*arguments: str) -> str:
        bounded = ("/bin/sh", "-c", 'ulimit -f "$0" && exec "$@"', str(_FILE_BLOCKS_MAX))
        return tools.run((*bounded, git, *options, *arguments), _environment(into), into, work)

    try:
        _check_version(run("version"))
        length = "sha256" if len(place.commit) == 64 else "sha1"
        run("init", "--quiet", "--bare", f"--object-format={length}", str(repository))
        here = ("--git-dir", str(repository))
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
        run(*here, *fetch, "--", place.url, place.commit)
        tree = f"{place.commit}:{place.subdirectory}" if place.subdirectory else place.commit
        run(*here, "archive", "--format=tar", "-o", str(made), tree)
    except ToolFailed as error:
        last = error.output.rstrip().rpartition("\n")[2].removeprefix("fatal: ")
        text = f"the commit cannot be fetched: {last or error.message}"
        hint = "check URL, commit and subdirectory; redirects are not followed, and workers have no credentials"
        raise EnvironmentFailed(text, hint=hint, details=error.output) from error
    shutil.rmtree(repository, ignore_errors=True)
    return made


def _check_version(said: str) -> None:
    found = _VERSION.search(said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise EnvironmentFailed(f"the worker's git is older than {oldest}", hint="bring it up to date")


def _environment(home: Path) -> Mapping[str, str]:
    own = settings.child_environment()
    authorities = own.get("GIT_SSL_CAINFO") or own.get("SSL_CERT_FILE")
    return {
        "PATH": own.get("PATH", "/usr/bin:/bin"),
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ALLOW_PROTOCOL": "https",
        **({"GIT_SSL_CAINFO": authorities} if authorities else {}),
    }
