"""From a place of code to a directory on this host.

Owns which fetcher is for which place, and under which key its result is kept: archives by the digest of their bytes, so
that one that was fetched once is found again whatever it is called. What is not pinned is fetched to learn its digest.
Blocks: called in threads, by `prepare`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.errors import EnvironmentFailed
from mesh.packages.extract import extract
from mesh.packages.members import ArchiveRefused
from mesh.packages.place import Bucket, Download, Git, InPlace, Package, Place, archive_suffix, render
from mesh.worker.environments import buckets, git
from mesh.worker.environments.cache import TREE, Cache, Held
from mesh.worker.environments.packages import Packages
from mesh.worker.environments.resolver import Resolver
from mesh.worker.environments.tools import Tools
from mesh.worker.environments.work import Work

_ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A place that is ready. `place` always has the same content; `held` keeps `directory` in the cache."""

    place: Place
    directory: Path
    held: Held | None = None


class Fetcher:
    """Fetches what the cache does not have."""

    def __init__(self, cache: Cache, packages: Packages, resolver: Resolver, tools: Tools) -> None:
        self._cache = cache
        self._packages = packages
        self._resolver = resolver
        self._tools = tools

    def fetch(self, place: Place, work: Work) -> Fetched:
        """Return a place as a directory. Raises EnvironmentFailed and Stopped."""
        match place:
            case InPlace(path):
                return Fetched(place, Path(path))
            case Package(digest):
                return self._package(place, digest, work)
            case Git():
                return self._git(place, work)
            case Download(url, sha256):

                def by_https(into: Path) -> str:
                    from mesh.worker.environments import web  # takes its time to load, and most workers never need it

                    return web.download(url, into, self._resolver, work)

                return self._archive(place, sha256, by_https, work)
            case Bucket(_, _, _, sha256):

                def by_store(into: Path) -> str:
                    return buckets.download(place, into, work)

                return self._archive(place, sha256, by_store, work)

    def _package(self, place: Place, digest: str, work: Work) -> Fetched:
        def make(into: Path) -> None:
            work.say(f"fetching package {digest[:19]}…")
            archive = into / _ARCHIVE
            work.wait(self._packages.download(digest, archive))
            unpack(archive, into / TREE, work)

        held = self._cache.hold(_key(digest.removeprefix("sha256:")), make, work)
        return Fetched(place, held.path / TREE, held)

    def _git(self, place: Git, work: Work) -> Fetched:
        def make(into: Path) -> None:
            work.say(f"fetching {place.url} at {place.commit[:12]}")
            unpack(git.archive(place, into, self._resolver, self._tools, work), into / TREE, work)

        key = hashlib.sha256(render(place).encode()).hexdigest()
        held = self._cache.hold(f"git-{key}", make, work)
        return Fetched(place, held.path / TREE, held)

    def _archive(self, place: Download | Bucket, sha256: str, download: Callable[[Path], str], work: Work) -> Fetched:
        """Fetch an archive; `download` writes it to a file and returns its digest."""
        bare = render(replace(place, sha256=""))

        def make(into: Path) -> None:
            work.say(f"fetching {bare}")
            archive = into / _ARCHIVE
            if (found := download(archive)) != sha256:
                text = f"{bare} has another sha256 than the one that is pinned: {found}"
                raise EnvironmentFailed(text, hint="check what is there, then mend #sha256=")
            unpack(archive, into / TREE, work)

        if sha256:
            held = self._cache.hold(_key(sha256), make, work)
        else:
            sha256, held = self._unpinned(bare, download, work)
        directory = held.path / TREE
        wheel = archive_suffix(bare) == ".whl"
        return Fetched(replace(place, sha256=sha256), directory if wheel else _content(directory), held)

    def _unpinned(self, bare: str, download: Callable[[Path], str], work: Work) -> tuple[str, Held]:
        with self._cache.temporary(f"url-{hashlib.sha256(bare.encode()).hexdigest()}", work) as directory:
            work.say(f"fetching {bare}")
            archive = directory / _ARCHIVE
            sha256 = download(archive)
            work.warn(f"{bare} may change: pin it with #sha256={sha256}")
            held = self._cache.hold(_key(sha256), lambda into: unpack(archive, into / TREE, work), work)
        return sha256, held


def unpack(archive: Path, into: Path, work: Work) -> None:
    """Unpack an archive and remove it. Raises EnvironmentFailed and Stopped."""
    work.say("unpacking")
    try:
        extract(archive, into, stopped=work.stopped)
    except ArchiveRefused as error:
        work.check()
        hint = error.hint or "pack less into it; fetch large data elsewhere"
        raise EnvironmentFailed(f"the archive cannot be unpacked: {error.message}", hint=hint) from error
    archive.unlink()


def _key(sha256: str) -> str:
    return f"archive-{sha256}"


def _content(directory: Path) -> Path:
    """Return where the code in an unpacked archive is: in its one directory, if no module can have its name.

    Archives that forges make of a repository hold all of it in a directory such as `repository-0123abcd`.
    """
    found = list(directory.iterdir())
    if len(found) == 1 and found[0].is_dir() and not found[0].is_symlink() and not found[0].name.isidentifier():
        return found[0]
    return directory
