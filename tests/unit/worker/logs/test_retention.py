from __future__ import annotations

from mesh.worker.logs import retention
from mesh.worker.logs.lines import Source
from mesh.worker.logs.retention import (
    DEAD_KEPT_S,
    FILE_BYTES_MAX,
    REPLICA_FILES_MAX,
    WORKER_BYTES_MAX,
    LogFile,
    full,
    removals,
)

NOW = 1_700_000_000.0
NOBODY: frozenset[Source] = frozenset()


def source(name: str) -> Source:
    return Source("app", "Echo", name)


def files(name: str, count: int, *, age_s: float = 0.0, size: int = FILE_BYTES_MAX, process: int = 1) -> list[LogFile]:
    return [LogFile(source(name), process, i + 1, size, NOW - age_s - count + i) for i in range(count)]


def test_a_replica_keeps_its_newest_files_and_has_room_for_one_more() -> None:
    own = files("r", 6)
    assert full(own) == own[:2]
    assert full(own, spare=FILE_BYTES_MAX) == own[:3]
    assert full(own[:1], spare=100 * FILE_BYTES_MAX) == []


def test_a_replica_that_crashes_again_and_again_keeps_a_number_of_files() -> None:
    own = [file for i in range(50) for file in files("r", 1, size=10, process=i + 1)]
    assert full(reversed(own)) == own[: 50 - REPLICA_FILES_MAX]


def test_what_the_dead_left_goes_after_a_day_and_what_lives_stays() -> None:
    old, recent = files("old", 2, age_s=DEAD_KEPT_S), files("recent", 2, age_s=DEAD_KEPT_S - 60)
    living = files("living", 2, age_s=10 * DEAD_KEPT_S)
    assert removals([*old, *recent, *living], frozenset({source("living")}), NOW) == old


def test_without_room_the_oldest_files_of_the_dead_go_first() -> None:
    count = WORKER_BYTES_MAX // FILE_BYTES_MAX
    living = [file for i in range(count // 2) for file in files(f"l{i}", 2, age_s=500)]
    dead = [file for i in range(5) for file in files(f"d{i}", 2, age_s=i)]
    alive = frozenset(file.source for file in living)
    gone = removals([*living, *dead], alive, NOW)
    assert {file.source for file in gone} == {file.source for file in dead}
    assert removals([*living, *dead[:4]], alive, NOW)[0] in dead


def test_of_the_living_what_is_written_to_now_stays_whatever_happens() -> None:
    living = [file for i in range(retention.WORKER_FILES_MAX) for file in files(f"l{i}", 2, size=1)]
    alive = frozenset(file.source for file in living)
    gone = removals(living, alive, NOW)
    assert len(gone) == retention.WORKER_FILES_MAX
    assert {file.part for file in gone} == {1}


def test_a_small_amount_is_left_alone() -> None:
    assert removals(files("r", 3), NOBODY, NOW) == []
    assert removals([], NOBODY, NOW) == []
