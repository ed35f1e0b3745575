"""What installs packages on this host: uv, else pip.

Owns their commands. Both resolve into a lock, every package with its exact version and digests, and install just
what a lock has. Which index they ask is theirs and the operator's: their configuration and variables hold. Called by
`venvs`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from mesh import settings
from mesh.errors import EnvironmentFailed
from mesh.worker.environments.tools import Tools
from mesh.worker.environments.work import Work


class Installer(Protocol):
    """One of the two. Each method raises ToolFailed and Stopped."""

    def resolve(self, requirements: Path, constraints: Path, lock: Path, work: Work) -> None:
        """Write the lock of requirements."""

    def install(self, lock: Path, into: Path, work: Work) -> None:
        """Make a virtual environment that has what is in the lock."""


def installer(tools: Tools, cache: Path) -> Installer:
    """Return what there is. Raises EnvironmentFailed if there is none."""
    if uv := _uv():
        return _Uv(uv, tools, cache)
    if importlib.util.find_spec("pip") is not None:
        return _Pip(tools)
    raise EnvironmentFailed("the worker has neither uv nor pip to install packages with", hint="install uv there")


def _uv() -> str:
    if found := shutil.which("uv"):
        return found
    try:
        from uv import find_uv_bin
    except ImportError:
        return ""
    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return ""


class _Uv:
    def __init__(self, uv: str, tools: Tools, cache: Path) -> None:
        self._uv = uv
        self._tools = tools
        self._cache = cache

    def resolve(self, requirements: Path, constraints: Path, lock: Path, work: Work) -> None:
        arguments = ("pip", "compile", str(requirements), "--constraints", str(constraints), "-o", str(lock))
        options = ("--generate-hashes", "--no-header", "--no-annotate", "--python", sys.executable, "--quiet")
        self._run((*arguments, *options), lock.parent, work)

    def install(self, lock: Path, into: Path, work: Work) -> None:
        self._run(("venv", str(into), "--python", sys.executable, "--relocatable", "--quiet"), into.parent, work)
        python = ("--python", str(into / "bin" / "python"))
        self._run(("pip", "install", *python, "--no-deps", "--require-hashes", "-r", str(lock)), into.parent, work)

    def _run(self, arguments: tuple[str, ...], directory: Path, work: Work) -> None:
        command = (self._uv, *arguments, "--no-python-downloads", "--no-progress", "--color", "never")
        variables = {**_environment(), "UV_CACHE_DIR": str(self._cache), "UV_NO_MANAGED_PYTHON": "1"}
        self._tools.run(command, variables, directory, work)


class _Pip:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def resolve(self, requirements: Path, constraints: Path, lock: Path, work: Work) -> None:
        report = lock.with_suffix(".json")
        what = ("--requirement", str(requirements), "--constraint", str(constraints))
        options = ("--dry-run", "--ignore-installed", "--quiet", "--report", str(report))
        self._run((sys.executable, "-P", "-m", "pip", "install", *what, *options), lock.parent, work)
        lock.write_text("".join(_locked(json.loads(report.read_text()))))

    def install(self, lock: Path, into: Path, work: Work) -> None:
        self._run((sys.executable, "-P", "-m", "venv", "--without-pip", str(into)), into.parent, work)
        pip = (sys.executable, "-P", "-m", "pip", "--python", str(into / "bin" / "python"))
        self._run((*pip, "install", "--no-deps", "--require-hashes", "-r", str(lock)), into.parent, work)

    def _run(self, command: tuple[str, ...], directory: Path, work: Work) -> None:
        variables = {**_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        self._tools.run(command, variables, directory, work)


def _locked(report: object) -> list[str]:
    """Return the lines of a lock from what pip reports of an installation that it would do."""
    assert isinstance(report, dict)
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        source = f"{name} @ {item['download_info']['url']}" if item.get("is_direct") else f"{name}=={version}"
        digests = item["download_info"].get("archive_info", {}).get("hashes", {})
        hashes = "".join(f" --hash={kind}:{value}" for kind, value in digests.items())
        lines.append(f"{source}{hashes}\n")
    return sorted(lines)


def _environment() -> Mapping[str, str]:
    # What is on the worker's own import path is none of the new environment's business.
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in settings.child_environment().items() if name not in own}
