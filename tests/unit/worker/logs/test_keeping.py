"""What is written is what is read: the keeper and the reader on a real directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.clock import SYSTEM
from mesh.worker.logs.directory import LogDirectory
from mesh.worker.logs.keeper import Keeper
from mesh.worker.logs.lines import Source, Wanted
from mesh.worker.logs.reading import Asked, Found, Reading
from mesh.worker.logs.retention import FILE_BYTES_MAX, REPLICA_BYTES_MAX
from tests.support.mesh_process import eventually

ONE, TWO = Source("app", "Echo", "app-Echo-1"), Source("app", "Other", "app-Other-2")
ALL = 10_000


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    started = Keeper(str(tmp_path / "logs"), SYSTEM)
    started.start()
    yield started
    started.close()


def again(keeper: Keeper, tmp_path: Path) -> Keeper:
    """Close it and open its directory once more."""
    keeper.close()
    opened = Keeper(str(tmp_path / "logs"), SYSTEM)
    opened.start()
    return opened


def read(keeper: Keeper, tail: int = ALL, **asked: object) -> list[str]:
    return [found.kept.line.message for found in found_in(keeper, tail, **asked)]


def found_in(keeper: Keeper, tail: int = ALL, **asked: object) -> list[Found]:
    assert keeper.directory is not None
    reading = Reading(keeper.directory, Asked("app", tail_lines=tail, **asked), keeper.alive)  # type: ignore[arg-type]
    reading.begin()
    found = []
    while chunk := reading.next():
        found += chunk
    return found


def written(keeper: Keeper, count: int) -> None:
    eventually(lambda: len(read(keeper)) >= count, what=f"{count} lines on disk")


def test_lines_of_all_replicas_come_in_order_of_time(keeper: Keeper) -> None:
    one, two = keeper.open(ONE), keeper.open(TWO)
    for i in range(10):
        (one if i % 2 else two).write([f"{i}"])
    written(keeper, 10)
    assert read(keeper) == [f"{i}" for i in range(10)]
    assert read(keeper, deployment="Echo") == ["1", "3", "5", "7", "9"]
    assert read(keeper, replica="app-Oth") == ["0", "2", "4", "6", "8"]
    assert read(keeper, tail=1) == ["8", "9"]
    assert read(keeper, tail=0) == []


def test_the_tail_is_counted_in_lines_that_are_wanted(keeper: Keeper) -> None:
    log = keeper.open(ONE)
    line = '{"time": "x", "level": "INFO", "message": "%d", "request_id": "r%d"}'
    log.write([line % (i, i % 3) for i in range(90)])
    written(keeper, 90)
    assert read(keeper, tail=2, wanted=Wanted(request_id="r1")) == ["85", "88"]
    assert read(keeper, tail=2, wanted=Wanted(since=SYSTEM.wall() + 1000)) == []


def test_processes_are_told_apart_and_counted_on_after_a_restart_of_the_worker(keeper: Keeper, tmp_path: Path) -> None:
    first = keeper.open(ONE)
    first.write(["one"])
    first.end("exited with code 1", "ERROR")
    keeper.open(ONE).write(["two"])
    written(keeper, 3)
    reopened = again(keeper, tmp_path)
    try:
        reopened.open(ONE).write(["three"])
        written(reopened, 4)
        positions = [(found.process, found.kept.number) for found in found_in(reopened)]
        assert positions == [(1, 1), (1, 2), (2, 1), (3, 1)]
        assert read(reopened) == ["one", "(the process exited with code 1)", "two", "three"]
    finally:
        reopened.close()


def test_previous_is_the_last_process_that_has_ended(keeper: Keeper) -> None:
    log = keeper.open(ONE)
    log.write(["first"])
    log.end("exited with code 1", "ERROR")
    written(keeper, 2)
    ended = ["first", "(the process exited with code 1)"]
    assert read(keeper, previous=True) == ended
    keeper.open(ONE).write(["second"])
    written(keeper, 3)
    assert read(keeper, previous=True) == ended
    keeper.open(TWO).write(["never ended"])
    written(keeper, 4)
    assert read(keeper, previous=True) == ended


def test_what_was_read_is_not_read_again(keeper: Keeper) -> None:
    log = keeper.open(ONE)
    log.write(["a", "b", "c"])
    written(keeper, 3)
    assert read(keeper, tail=1, after={ONE.replica_id: (1, 1)}) == ["b", "c"]
    assert read(keeper, after={ONE.replica_id: (1, 3)}) == []
    assert read(keeper, tail=1, after={ONE.replica_id: (9, 9)}) == ["c"], "a position of a directory that was lost"


def test_files_are_rotated_and_bounded_and_no_line_is_cut(keeper: Keeper) -> None:
    log = keeper.open(ONE)
    count = 3 * REPLICA_BYTES_MAX // 8192
    for i in range(count):
        log.write([f"{i:06}" + "x" * 8000])
        if not i % 100:
            eventually(lambda: not keeper._queue.lines, what="the queue is empty")
    assert keeper.directory is not None
    eventually(lambda: read(keeper, tail=1)[-1:] and read(keeper, tail=1)[0].startswith(f"{count - 1:06}"), what="last")
    files = keeper.directory.replica_files(ONE)
    assert sum(file.bytes for file in files) <= REPLICA_BYTES_MAX + FILE_BYTES_MAX
    assert max(file.bytes for file in files) <= FILE_BYTES_MAX + 16 * 1024
    numbers = [int(message[:6]) for message in read(keeper)]
    assert numbers == list(range(numbers[0], count))
    assert numbers[0] > 0


def test_a_reader_sees_what_comes_over_rotations_restarts_and_new_replicas(keeper: Keeper) -> None:
    assert keeper.directory is not None
    reading = Reading(keeper.directory, Asked("app", tail_lines=1), keeper.alive)
    log = keeper.open(ONE)
    log.write(["old", "last"])
    written(keeper, 2)
    reading.begin()
    seen: list[str] = []

    def more() -> list[str]:
        reading.look()
        while chunk := reading.next():
            seen.extend(found.kept.line.message[:5] for found in chunk)
        return seen

    log.write(["x" * 8000 for _ in range(FILE_BYTES_MAX // 8000 + 10)])
    log.end("was killed by SIGKILL", "ERROR")
    keeper.open(ONE).write(["again"])
    keeper.open(TWO).write(["other"])
    eventually(lambda: {"again", "other"} <= set(more()), what="all lines")
    assert seen[0] == "last"
    assert seen.count("xxxxx") == FILE_BYTES_MAX // 8000 + 10


def test_only_the_owner_may_read_it(keeper: Keeper, tmp_path: Path) -> None:
    keeper.open(ONE).write(["secret"])
    written(keeper, 1)
    (file,) = (tmp_path / "logs").rglob("*.jsonl")
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["../../../escaped", "..", ".", "a/b", "a\\b", "é"])
def test_no_name_leads_out_of_the_directory(keeper: Keeper, tmp_path: Path, name: str) -> None:
    keeper.open(Source("app", name, name)).write(["here"])
    written(keeper, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}
    assert found_in(keeper)[0].source == Source("app", name, name)


def test_what_a_full_disk_takes_away_is_counted_and_told(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    log = keeper.open(ONE)
    with monkeypatch.context() as patch:
        patch.setattr("mesh.worker.logs.keeper.os.write", full)
        log.write(["lost", "lost as well"])
        eventually(lambda: keeper.trouble, what="the keeper has noticed")
        assert "No space left" in keeper.trouble
    log.write(["kept"])
    written(keeper, 2)
    assert read(keeper) == ["… 2 lines left out", "kept"]
    assert keeper.trouble == ""


def test_a_directory_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keeper = Keeper(str(tmp_path / "file" / "logs"), SYSTEM)
    keeper.start()
    log = keeper.open(ONE)
    log.write(["x"])
    log.end("exited with code 0", "INFO")
    assert "file" in keeper.trouble
    keeper.close()


def test_two_workers_never_write_to_one_directory(keeper: Keeper, tmp_path: Path) -> None:
    other = Keeper(str(tmp_path / "logs"), SYSTEM)
    other.start()
    assert other.directory is not None and other.directory.temporary
    other.close()


def test_a_temporary_directory_goes_with_its_worker_or_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = LogDirectory("")
    second = LogDirectory("")
    assert first.path.exists()
    os.close(first._lock)  # as if it were killed
    third = LogDirectory("")
    assert sorted(tmp_path.iterdir()) == sorted([second.path, third.path])
    second.close()
    third.close()
    assert list(tmp_path.iterdir()) == []
