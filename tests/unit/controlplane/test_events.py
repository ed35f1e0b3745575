"""The book of events: bounds, repeats, what goes first, what stays of a deleted application."""

from __future__ import annotations

from mesh.controlplane.events import (
    CLUSTER,
    EVENTS_MAX,
    GONE_LOGS_MAX,
    KEPT_S,
    LAST_MAX,
    MESSAGE_CHARACTERS_MAX,
    SEQUENCE_GAP,
    Book,
    Filter,
    last,
)
from mesh.controlplane.records import decode_events, encode_events
from mesh.controlplane.store import VALUE_BYTES_MAX
from mesh.model import Event
from mesh.reasons import EventReason, Severity


def happening(reason: EventReason = EventReason.READY, replica_id: str = "", **fields: object) -> Event:
    return Event(reason=reason, application="app", replica_id=replica_id, **fields)  # type: ignore[arg-type]


def test_events_are_numbered_and_timed() -> None:
    book = Book()
    book.note(happening(EventReason.APPLIED, revision=1), 10.0)
    book.note(happening(EventReason.BUILT, revision=1), 11.0)
    assert [(e.sequence, e.first_at, e.last_at, e.count) for e in book.log("app")] == [(1, 10, 10, 1), (2, 11, 11, 1)]


def test_an_event_may_say_itself_when_it_happened() -> None:
    book = Book()
    book.note(happening(EventReason.APPLIED, last_at=5.0), 10.0)
    assert book.log("app")[0].first_at == 5.0


def test_what_happens_again_is_counted_and_goes_to_the_end() -> None:
    book = Book()
    book.note(happening(EventReason.CRASHED, "r1", message="exit code 1"), 10.0)
    book.note(happening(EventReason.READY, "r1"), 11.0)
    book.note(happening(EventReason.CRASHED, "r1", message="exit code 2"), 12.0)
    ready, crashed = book.log("app")
    assert ready.reason is EventReason.READY
    assert (crashed.count, crashed.first_at, crashed.last_at, crashed.message) == (2, 10.0, 12.0, "exit code 2")
    assert crashed.sequence == 3


def test_what_differs_in_anything_but_a_replicas_text_is_no_repeat() -> None:
    book = Book()
    for event in (
        happening(EventReason.SCALED, message="1 to 2"),
        happening(EventReason.SCALED, message="2 to 1"),
        happening(EventReason.SCALED, message="2 to 1", revision=2),
        happening(EventReason.READY, "r1"),
        happening(EventReason.READY, "r2"),
    ):
        book.note(event, 1.0)
    assert len(book.log("app")) == 5


def test_a_full_log_loses_what_replicas_do_as_they_should_first() -> None:
    book = Book()
    book.note(happening(EventReason.APPLIED), 0.0)
    book.note(happening(EventReason.CRASHED, "r0", severity=Severity.WARNING), 0.0)
    for i in range(3 * EVENTS_MAX):
        book.note(happening(EventReason.READY, f"r{i}"), float(i))
    log = book.log("app")
    assert len(log) == EVENTS_MAX
    assert [e.reason for e in log[:2]] == [EventReason.APPLIED, EventReason.CRASHED]
    assert log[-1].replica_id == f"r{3 * EVENTS_MAX - 1}"


def test_a_full_log_of_things_that_matter_loses_the_oldest() -> None:
    book = Book()
    for i in range(EVENTS_MAX + 5):
        book.note(happening(EventReason.APPLIED, revision=i), float(i))
    assert [e.revision for e in book.log("app")] == list(range(5, EVENTS_MAX + 5))


def test_texts_are_bounded_lines_and_a_full_log_fits_a_value() -> None:
    book = Book()
    for i in range(EVENTS_MAX):
        book.note(happening(EventReason.CRASHED, f"r{i}", message="\U0001f600\n" * 10_000), 1.0)
    log = book.log("app")
    assert all(len(e.message) <= MESSAGE_CHARACTERS_MAX and "\n" not in e.message for e in log)
    value = encode_events(log)
    assert len(value) < VALUE_BYTES_MAX / 4
    assert decode_events(value) == log


def test_what_cannot_be_read_is_nothing() -> None:
    assert decode_events(b"\xff\xff\xff") == ()


def test_numbers_go_on_above_all_that_a_leader_may_have_told() -> None:
    book = Book()
    book.note(happening(), 1.0)
    successor = Book({"app": book.log("app")})
    successor.note(happening(EventReason.BUILT), 2.0)
    assert successor.log("app")[-1].sequence == 1 + SEQUENCE_GAP + 1
    assert Book().sequence == 0


def test_changed_logs_are_taken_once_and_given_back_if_they_could_not_be_stored() -> None:
    book = Book()
    book.note(happening(), 1.0)
    book.note(Event(reason=EventReason.CONNECTED, worker_id="w1"), 1.0)
    assert book.take_changed().keys() == {"app", CLUSTER}
    assert book.take_changed() == {}
    book.give_back(["app"])
    assert book.take_changed().keys() == {"app"}


def test_the_log_of_a_deleted_application_stays_for_a_while() -> None:
    book = Book()
    book.note(happening(EventReason.DELETED), 100.0)
    book.note(Event(reason=EventReason.CONNECTED, worker_id="w1"), 0.0)
    book.take_changed()
    book.drop_old({"app"}, 1e9)
    book.drop_old((), 100.0 + KEPT_S)
    assert book.take_changed() == {}
    book.drop_old((), 100.0 + KEPT_S + 1)
    assert book.take_changed() == {"app": ()}, "an empty log is removed from the store"
    assert book.log(CLUSTER), "what belongs to no application stays"


def test_not_more_logs_stay_than_there_is_a_bound_for() -> None:
    book = Book()
    for i in range(GONE_LOGS_MAX + 3):
        book.note(Event(reason=EventReason.DELETED, application=f"app{i}"), float(i))
    book.take_changed()
    book.drop_old((), float(GONE_LOGS_MAX))
    assert sorted(book.take_changed()) == ["app0", "app1", "app2"]


def test_filters() -> None:
    book = Book()
    book.note(happening(EventReason.APPLIED), 1.0)
    book.note(happening(EventReason.READY, "r1", worker_id="w1", deployment="Echo"), 2.0)
    book.note(happening(EventReason.CRASHED, "r2", severity=Severity.WARNING, deployment="Other"), 3.0)
    book.note(Event(reason=EventReason.CONNECTED, worker_id="w1"), 2.5)

    def asked(**fields: object) -> list[str]:
        return [e.reason.name for e in book.found(Filter(**fields))]  # type: ignore[arg-type]

    assert asked() == ["APPLIED", "READY", "CONNECTED", "CRASHED"], "in their order in time"
    assert asked(application="app") == ["APPLIED", "READY", "CRASHED"]
    assert asked(application="none") == []
    assert asked(deployment="Echo") == ["READY"]
    assert asked(replica_id="r2") == ["CRASHED"]
    assert asked(worker_id="w1") == ["READY", "CONNECTED"]
    assert asked(severity=Severity.WARNING) == ["CRASHED"]
    assert asked(since=2.2) == ["CONNECTED", "CRASHED"]
    assert asked(after=2) == ["CONNECTED", "CRASHED"]


def test_the_last_few_of_each_part() -> None:
    book = Book()
    book.note(happening(EventReason.APPLIED), 0.0)
    for i in range(9):
        book.note(happening(EventReason.READY, f"r{i}", deployment="Echo"), float(i))
    few = last(book.log("app"))
    assert len(few.application) == len(few.deployments["Echo"]) == LAST_MAX
    assert [e.reason for e in few.replicas["r0"]] == [EventReason.READY]
