"""What happened of late: the last events of each application, and of workers, gateways and leaders.

Owns how many are kept, which go first, when one counts as a repeat, and how long those of a deleted application stay.
What happened is found by `happenings`; `event_log` stores this book. Pure. Called by `term`, which holds one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from mesh.model import Event
from mesh.reasons import EventReason, Severity

CLUSTER = "-"
"""The log of what belongs to no application. No application can have this name."""
EVENTS_MAX = 100
"""Events in one log."""
MESSAGE_CHARACTERS_MAX = 300
LAST_MAX = 5
"""Events shown beside a state."""
KEPT_S = 3600.0
"""Seconds for which the log of an application stays after its last event, when the application is gone."""
GONE_LOGS_MAX = 50
"""Logs of applications that are gone; the oldest go first."""
SEQUENCE_GAP = 10_000
"""More than a leader can note without writing any of it: its successor's numbers are higher than all it told."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are asked for; what is empty or 0 matches all. Field names are those of EventFilter."""

    application: str = ""
    deployment: str = ""
    replica_id: str = ""
    worker_id: str = ""
    severity: Severity = Severity.UNSPECIFIED
    since: float = 0.0
    after: int = 0

    def matches(self, event: Event) -> bool:
        """Whether an event is asked for."""
        named = (
            self.application in ("", event.application)
            and self.deployment in ("", event.deployment)
            and self.replica_id in ("", event.replica_id)
            and self.worker_id in ("", event.worker_id)
        )
        severe = self.severity in (Severity.UNSPECIFIED, event.severity)
        return named and severe and event.last_at >= self.since and event.sequence > self.after


class Book:
    """All logs. `logs` are those that were stored, by application."""

    def __init__(self, logs: Mapping[str, Iterable[Event]] | None = None) -> None:
        self._logs = {name: list(events)[-EVENTS_MAX:] for name, events in (logs or {}).items()}
        stored = [event.sequence for events in self._logs.values() for event in events]
        self._sequence = max(stored) + SEQUENCE_GAP if stored else 0
        self._changed: set[str] = set()

    @property
    def sequence(self) -> int:
        """That of the newest event."""
        return self._sequence

    def note(self, event: Event, wall: float) -> None:
        """Add what happened at `wall`, Unix time in seconds; one that is the same as before but for its time counts up.

        An event that says when it happened keeps that.
        """
        name = event.application or CLUSTER
        log = self._logs.setdefault(name, [])
        self._sequence += 1
        at = event.last_at or wall
        event = replace(
            event, message=_bounded(event.message), first_at=at, last_at=at, count=1, sequence=self._sequence
        )
        if (before := next((e for e in log if _same(e, event)), None)) is not None:
            log.remove(before)
            event = replace(event, first_at=before.first_at, count=before.count + 1)
        log.append(event)
        if len(log) > EVENTS_MAX:
            # What replicas do as they should is what there is most of, and what matters least.
            log.remove(next((e for e in log if e.replica_id and e.severity is Severity.NORMAL), log[0]))
        self._changed.add(name)

    def log(self, application: str) -> tuple[Event, ...]:
        """Return the log of an application, or of CLUSTER, oldest first."""
        return tuple(self._logs.get(application, ()))

    def found(self, wanted: Filter) -> tuple[Event, ...]:
        """Return the events that match, in their order in time."""
        return found(self._logs.values(), wanted)

    def take_changed(self) -> dict[str, tuple[Event, ...]]:
        """Return the logs that changed since this was called last; an empty one is gone."""
        changed, self._changed = self._changed, set()
        return {name: self.log(name) for name in sorted(changed)}

    def give_back(self, names: Iterable[str]) -> None:
        """Count these logs as changed: they could not be stored."""
        self._changed.update(names)

    def drop_old(self, applications: Container[str], wall: float) -> None:
        """Drop the logs of applications that are gone for long, and the oldest if there are too many."""
        gone = {name: log[-1].last_at if log else 0.0 for name, log in self._logs.items()}
        gone = {name: at for name, at in gone.items() if name != CLUSTER and name not in applications}
        newest = sorted(gone, key=lambda name: gone[name])[-GONE_LOGS_MAX:]
        for name, at in gone.items():
            if name not in newest or at < wall - KEPT_S:
                del self._logs[name]
                self._changed.add(name)


@dataclass(frozen=True, slots=True)
class Last:
    """The last events of an application and of each of its parts, by name or id."""

    application: tuple[Event, ...]
    deployments: Mapping[str, tuple[Event, ...]]
    replicas: Mapping[str, tuple[Event, ...]]


def last(log: Iterable[Event]) -> Last:
    """Return the last of an application's log, a few for each thing."""
    events = tuple(log)
    deployments: dict[str, list[Event]] = defaultdict(list)
    replicas: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.deployment:
            deployments[event.deployment].append(event)
        if event.replica_id:
            replicas[event.replica_id].append(event)
    return Last(
        events[-LAST_MAX:],
        {name: tuple(of_it[-LAST_MAX:]) for name, of_it in deployments.items()},
        {replica_id: tuple(of_it[-LAST_MAX:]) for replica_id, of_it in replicas.items()},
    )


def found(logs: Iterable[Iterable[Event]], wanted: Filter) -> tuple[Event, ...]:
    """Return the events of some logs that match, in their order in time."""
    return tuple(sorted((e for log in logs for e in log if wanted.matches(e)), key=lambda e: (e.last_at, e.sequence)))


def _same(one: Event, other: Event) -> bool:
    """Whether the second is the first again. Of a replica whatever its text: it may count, or be the user's own."""
    return _identity(one) == _identity(other)


def _identity(event: Event) -> tuple[EventReason, str, str, str, str, int, str]:
    text = "" if event.replica_id else event.message
    return (
        event.reason,
        event.deployment,
        event.replica_id,
        event.worker_id,
        event.gateway_id,
        event.revision,
        text,
    )


def _bounded(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARACTERS_MAX else line[: MESSAGE_CHARACTERS_MAX - 1] + "…"
