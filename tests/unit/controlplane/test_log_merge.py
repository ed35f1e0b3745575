from __future__ import annotations

import math

from mesh.controlplane.log_merge import FIELDS_MAX, MESSAGE_CHARS_MAX, WAITING_MAX, LogMerge, bounded
from mesh.v1.log_service_pb2 import LogEntry, LogPosition


def entry(time: float, replica_id: str = "r", line: int = 1) -> LogEntry:
    return LogEntry(time=time, position=LogPosition(replica_id=replica_id, process=1, line=line))


def times(entries: list[LogEntry]) -> list[float]:
    return [found.time for found in entries]


def merge_of(*workers: str) -> LogMerge:
    merge = LogMerge()
    for worker_id in workers:
        merge.expect(worker_id, holds_up=True)
    return merge


def test_lines_that_were_there_wait_for_the_slowest_worker() -> None:
    merge = merge_of("w1", "w2")
    for time in (1.0, 3.0):
        merge.add("w1", entry(time))
    assert merge.take(10) == []
    assert merge.holding_up() == ["w2"]
    merge.add("w2", entry(2.0))
    assert times(merge.take(10)) == [1.0, 2.0]
    merge.flows("w2")
    assert times(merge.take(10)) == [3.0]
    assert not merge.over
    merge.flows("w1")
    assert merge.over


def test_what_comes_later_goes_at_once_in_order_of_time() -> None:
    merge = merge_of("w1", "w2")
    merge.flows("w1")
    merge.flows("w2")
    merge.add("w2", entry(6.0))
    merge.add("w1", entry(5.0))
    assert times(merge.take(10)) == [5.0, 6.0]
    merge.add("w1", entry(4.0))
    assert times(merge.take(10)) == [4.0]


def test_a_worker_may_send_no_more_than_is_read() -> None:
    merge = merge_of("w1")
    for i in range(WAITING_MAX):
        assert merge.has_room("w1")
        merge.add("w1", entry(float(i)))
    assert not merge.has_room("w1")
    merge.take(1)
    assert merge.has_room("w1")


def test_how_far_each_replica_was_read_is_known_and_what_was_not_taken_is_dropped_when_it_is_asked_for_again() -> None:
    merge = merge_of("w1")
    for i in range(5):
        merge.add("w1", entry(float(i), f"r{i % 2}", i))
    merge.take(3)
    assert {replica_id: position.line for replica_id, position in merge.positions.items()} == {"r0": 2, "r1": 1}
    merge.expect("w1", holds_up=False)
    assert merge.over


def test_what_a_worker_sends_is_bounded() -> None:
    wild = LogEntry(
        time=math.nan,
        application="another",
        message="x" * (MESSAGE_CHARS_MAX + 1),
        level="\x1b[31m",
        position=LogPosition(replica_id="r" * 10_000, process=1, line=1),
        fields={f"f{i}": "v" * 100_000 for i in range(100)},
    )
    tame = bounded(wild, "w1", "app")
    assert (tame.time, tame.application, tame.worker_id, tame.level) == (0.0, "app", "w1", "INFO")
    assert len(tame.message) == MESSAGE_CHARS_MAX
    assert len(tame.fields) == FIELDS_MAX
    assert len(tame.position.replica_id) == 256
    assert bounded(LogEntry(time=1e300), "w1", "app").time < 1e12
