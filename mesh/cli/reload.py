"""Watches directories for changed code.

Owns which files count as code and how a change is noticed: by watchfiles where it is installed, else by looking at
modification times. Never loads the code. Called by `run --reload`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path, PurePath

LOOK_SECONDS = 0.5
SUFFIXES = frozenset({".py", ".pyi", ".yaml", ".yml", ".json", ".toml", ".proto"})
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "dist", "build"})
FILES_MAX = 20_000
"""Files that are looked at; what is beyond is not noticed."""


def is_code(path: PurePath) -> bool:
    """Whether a change of the file at `path`, relative to its watched directory, counts."""
    folders = path.parts[:-1]
    return path.suffix in SUFFIXES and not any(part in _SKIPPED or part.startswith(".") for part in folders)


def fingerprint(directories: Sequence[Path]) -> str:
    """Return a digest that differs when a code file was added, removed or written."""
    digest = hashlib.sha256()
    left = FILES_MAX
    for directory in directories:
        for path in _files(directory):
            if (left := left - 1) < 0:
                break
            try:
                stat = path.stat()
            except OSError:
                continue
            digest.update(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


async def changes(directories: Sequence[Path], seen: str) -> AsyncGenerator[str, None]:
    """Yield the new fingerprint after each change from `seen` on, for ever."""
    async with contextlib.aclosing(_stirrings(directories)) as stirrings:
        async for _ in stirrings:
            now = await asyncio.to_thread(fingerprint, directories)
            if now != seen:
                seen = now
                yield now


async def _stirrings(directories: Sequence[Path]) -> AsyncGenerator[None, None]:
    """Yield whenever something may have changed."""
    yield
    try:
        import watchfiles
    except ImportError:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            yield
    # It yields on its time-out too, for what changed before it began to watch.
    changed = watchfiles.awatch(*directories, debounce=500, rust_timeout=5000, yield_on_timeout=True)
    async with contextlib.aclosing(changed):
        async for _ in changed:
            yield


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (here / name for name in sorted(names) if is_code(PurePath(name)))
