"""From a place of code to a directory on this host.

Owns which fetcher is for which place, and under which key its result is kept: archives by the digest of their bytes, so
that one that was fetched once is found again whatever it is called. Blocks: called in threads, by `prepare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentFailed
from mesh.packages.extract import extract
from mesh.packages.members import ArchiveRefused
from mesh.packages.place import InPlace, Package, Place
from mesh.worker.environments.cache import TREE, Cache, Held
from mesh.worker.environments.packages import Packages
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

    def __init__(self, cache: Cache, packages: Packages) -> None:
        self._cache = cache
        self._packages = packages

    def fetch(self, place: Place, work: Work) -> Fetched:
        """Return a place as a directory. Raises EnvironmentFailed and Stopped."""
        match place:
            case InPlace(path):
                return Fetched(place, Path(path))
            case Package(digest):
                return self._package(place, digest, work)
        raise EnvironmentFailed("code cannot be fetched from there yet")

    def _package(self, place: Place, digest: str, work: Work) -> Fetched:
        def make(into: Path) -> None:
            work.say(f"fetching package {digest[:19]}…")
            archive = into / _ARCHIVE
            work.wait(self._packages.download(digest, archive))
            unpack(archive, into / TREE, work)

        held = self._cache.hold(f"archive-{digest.removeprefix('sha256:')}", make, work)
        return Fetched(place, held.path / TREE, held)


def unpack(archive: Path, into: Path, work: Work) -> None:
    """Unpack an archive and remove it. Raises EnvironmentFailed and Stopped."""
    work.say("unpacking")
    try:
        extract(archive, into, stopped=work.stopped)
    except ArchiveRefused as error:
        work.check()
        raise EnvironmentFailed(f"the archive cannot be unpacked: {error.message}", hint=error.hint) from error
    archive.unlink()
