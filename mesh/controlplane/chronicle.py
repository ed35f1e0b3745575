"""The book of events of one leader's term, and what it saw last.

Owns the comparison with the look before, and what a new leader notes of the time before it. Pure. Called by `term`
and `loop`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.controlplane.actions import Action, ForgetReplica, StopReplica
from mesh.controlplane.events import CLUSTER, EVENTS_MAX, Book
from mesh.controlplane.happenings import View, happened, missed
from mesh.model import Event
from mesh.reasons import EventReason


class Chronicle:
    """Notes what happens, one look after another. `logs` and `view` are what the store had when the term began."""

    def __init__(self, logs: Mapping[str, Iterable[Event]], view: View) -> None:
        self.book = Book(logs)
        self._view = view
        self._why: dict[str, str] = {}

    def begin(self, leader: str, wall: float) -> None:
        """Note that `leader` took office at `wall`, Unix time in seconds, and what nobody had written down."""
        text = f"{leader or 'another instance'} leads"
        self.book.note(Event(reason=EventReason.LEADER_CHANGED, message=text), wall)
        for name, application in sorted(self._view.applications.items()):
            log = self.book.log(name)
            # A full log may have had it and lost it.
            for event in missed(application, log) if len(log) < EVENTS_MAX else ():
                self.book.note(event, wall)

    def decided(self, actions: Iterable[Action]) -> None:
        """Remember why replicas are stopped and forgotten: it shows in no state."""
        for action in actions:
            if isinstance(action, (StopReplica, ForgetReplica)):
                self._why[action.replica_id] = action.reason

    def look(self, view: View, wall: float) -> bool:
        """Note what happened since the last look. Returns whether anything did."""
        before, self._view = self._view, view
        sequence = self.book.sequence
        for event in happened(before, view, self._why):
            self.book.note(event, wall)
        self._why = {replica_id: why for replica_id, why in self._why.items() if replica_id in view.replicas}
        return self.book.sequence != sequence

    def last_of_worker(self, worker_id: str, count: int) -> tuple[Event, ...]:
        """Return the last events of a worker, those of its replicas apart."""
        return tuple(event for event in self.book.log(CLUSTER) if event.worker_id == worker_id)[-count:]
