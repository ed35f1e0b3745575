"""The embedded store's file: what survives, who may open it, what is said when it is no good."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import Batch, Compacted, Compare, Event, Put, Remove
from mesh.errors import Conflict, InvalidConfig, MeshError

WRITER = """
import asyncio, sys
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import Put

async def main():
    store = await open_sqlite(sys.argv[1])
    lease = await store.grant(3600.0)
    await store.commit((), (Put("leased", b"", lease),))
    for number in range(1_000_000):
        revision = await store.commit((), (Put("n/a", str(number).encode()), Put("n/b", str(number).encode())))
        print(number, revision, flush=True)

asyncio.run(main())
"""
OPENER = """
import asyncio, sys
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.errors import MeshError

try:
    asyncio.run(open_sqlite(sys.argv[1]))
except MeshError as error:
    print(type(error).__name__, error.message, error.hint, sep="|")
"""
FILLER = """
import asyncio, resource, signal, sys
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import Put
from mesh.errors import MeshError

async def main():
    store = await open_sqlite(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    acknowledged = 0
    try:
        while True:
            await store.commit((), (Put(f"k/{acknowledged}", b"x" * 50_000),))
            acknowledged += 1
    except MeshError as error:
        print(acknowledged, type(error).__name__, error.message, error.hint, sep="|")
    assert len((await store.list("k/")).items) == acknowledged
    await store.close()

asyncio.run(main())
"""


def child(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)


def answer(script: str, path: Path) -> str:
    with child(script, path) as process:
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        return output.strip()


async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with child(WRITER, path) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(200)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    acknowledged, revision = (int(part) for part in lines[-1].split())
    store = await open_sqlite(str(path))
    listing = await store.list("n/")
    a, b = (int(item.value) for item in listing.items)
    # At most the one commit that was on its way when the process died is more.
    assert a == b
    assert a - acknowledged in (0, 1)
    assert listing.items[0].revision - revision == a - acknowledged
    async with aclosing(store.watch("n/", after=1)) as changes:
        for number in range(a + 1):
            batch = await anext(changes)
            assert [(event.key, event.value) for event in batch.events] == [
                ("n/a", str(number).encode()),
                ("n/b", str(number).encode()),
            ]
    await store.close()


async def test_leases_of_a_dead_process_end_when_the_store_is_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    store = await open_sqlite(path)
    lease = await store.grant(3600.0)
    revision = await store.commit((), (Put("stays", b""), Put("leased", b"", lease)))
    await store.close()
    store = await open_sqlite(path)
    assert [item.key for item in (await store.list("")).items] == ["stays"]
    async with aclosing(store.watch("", after=revision)) as changes:
        assert await anext(changes) == Batch(revision + 1, (Event("leased", None, revision + 1),))
    with pytest.raises(MeshError):
        await store.keep_alive(lease)
    await store.close()


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await open_sqlite(str(path))
    kind, message, hint = answer(OPENER, path).split("|")
    assert kind == "Conflict"
    assert f"process {os.getpid()}" in message
    assert str(path) in message
    assert f"kill {os.getpid()}" in hint
    with pytest.raises(Conflict):
        await open_sqlite(str(path))
    await store.commit((), (Put("a", b""),))
    await store.close()
    assert answer(OPENER, path) == ""


async def test_a_killed_owner_does_not_keep_others_out(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with child(WRITER, path) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(Conflict, match=f"process {writer.pid}"):
            await open_sqlite(str(path))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
    await (await open_sqlite(str(path))).close()


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    store = await open_sqlite(str(tmp_path / "store.db"))
    await store.commit((), (Put("secret", b"s"),))
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    await store.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but a text of some length\n" * 100)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (a)")
    database.close()


def newer(path: Path) -> None:
    asyncio.run(_once(path))
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def damaged(path: Path) -> None:
    asyncio.run(_once(path))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def truncated(path: Path) -> None:
    asyncio.run(_once(path))
    path.write_bytes(path.read_bytes()[:5000])


def directory(path: Path) -> None:
    path.mkdir()


async def _once(path: Path) -> None:
    store = await open_sqlite(str(path))
    for number in range(50):
        await store.commit((), (Put(f"k/{number}", b"x" * 500),))
    await store.close()


@pytest.mark.parametrize("spoil", [garbage, foreign, newer, damaged, truncated, directory])
def test_a_file_that_is_no_store_is_named_and_left_alone(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "store.db"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(InvalidConfig) as caught:
        asyncio.run(_once(path))
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert (path.read_bytes() if path.is_file() else b"") == before
    # The lock is free again: the second try fails in the same way.
    with pytest.raises(InvalidConfig):
        asyncio.run(_once(path))


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="none") as caught:
        await open_sqlite(str(tmp_path / "none" / "store.db"))
    assert "directory" in caught.value.hint


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    count, kind, message, hint = answer(FILLER, path).split("|")
    assert int(count) > 0
    assert kind in ("Unreachable", "OutcomeUnknown")
    assert str(path) in message
    assert "disk" in hint

    async def keys() -> list[str]:
        store = await open_sqlite(str(path))
        listing = await store.list("k/")
        await store.close()
        return [item.key for item in listing.items]

    assert set(asyncio.run(keys())) >= {f"k/{number}" for number in range(int(count))}


async def test_history_is_forgotten_and_the_present_is_not(tmp_path: Path) -> None:
    store = await open_sqlite(str(tmp_path / "store.db"), keep_revisions=20)
    old = await store.commit((), (Put("old", b"1"), Put("gone", b"1"), Put("twice", b"1")))
    await store.commit((Compare("twice", old),), (Put("twice", b"2"), Remove("gone")))
    revisions = [await store.commit((), (Put("busy", str(n).encode()),)) for n in range(100)]
    for revision in revisions[-20:]:
        listing = await store.list("", revision=revision)
        values = {item.key: item.value for item in listing.items}
        assert values == {"old": b"1", "twice": b"2", "busy": str(revisions.index(revision)).encode()}
    with pytest.raises(Compacted):
        await store.list("", revision=revisions[-30])
    database = sqlite3.connect(tmp_path / "store.db")
    (rows,) = database.execute("SELECT count(*) FROM changes").fetchone()
    database.close()
    assert rows <= 25
    await store.close()


async def test_a_watcher_that_is_too_slow_is_told_so(tmp_path: Path) -> None:
    store = await open_sqlite(str(tmp_path / "store.db"), keep_revisions=20)
    first = await store.commit((), (Put("a", b""),))
    async with aclosing(store.watch("a", after=0)) as changes:
        assert (await anext(changes)).revision == first
        for _ in range(100):
            await store.commit((), (Put("a", b""),))
        with pytest.raises(Compacted):
            await anext(changes)
