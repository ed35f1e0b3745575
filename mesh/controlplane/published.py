"""What gateways and callers were told last to route by, as messages: whole, or what has changed since an earlier one.

Owns the newest snapshot, its generation, and since which generation each application is as it is. A message is made
when somebody needs it, once for all who do. Pure. Called by `term`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mesh import wire
from mesh.controlplane.memo import Memo
from mesh.controlplane.parts import Parts
from mesh.controlplane.publish import RoutedApplication, Snapshot
from mesh.model import Generation
from mesh.v1 import discovery_service_pb2
from mesh.v1.discovery_service_pb2 import StreamSnapshotsResponse

GONE_MAX = 1000
"""Names of applications that are gone and remembered; who knows less than the oldest of them is told all."""


class Published:
    """The snapshots of one term."""

    def __init__(self) -> None:
        self.at = Generation()
        """Of the newest snapshot; the default one while there is none."""
        self._routed: Snapshot | None = None
        self._parts = Parts()
        self._changed: dict[str, Generation] = {}
        self._gone: dict[str, Generation] = {}
        self._all_known = Generation()
        """Since when all that went is known."""
        self._encoded: Memo[discovery_service_pb2.RoutedApplication] = Memo()
        self._messages: dict[Generation, StreamSnapshotsResponse] = {}
        """By what they begin with; the whole one by the default generation."""

    def is_news(self, routed: Snapshot) -> bool:
        """Whether this is another snapshot than the newest one. It has no generation yet."""
        return routed != self._routed

    def take(self, routed: Snapshot, generation: Generation, asked: Collection[str]) -> None:
        """Publish a snapshot with its generation. `asked` are all names that callers by handles ask for."""
        before = {a.name: a for a in self._routed.applications} if self._routed is not None else {}
        after = {application.name: application for application in routed.applications}
        for name, application in after.items():
            if before.get(name) != application:
                self._changed[name] = generation
                self._gone.pop(name, None)
        for name in before.keys() - after.keys():
            del self._changed[name]
            self._gone[name] = generation
        while len(self._gone) > GONE_MAX:
            self._all_known = self._gone.pop(next(iter(self._gone)))
        self._routed, self.at = routed, generation
        self._parts.note(routed, generation, asked)
        self._encoded.keep(after)
        self._messages.clear()

    def since(self, known: Generation) -> StreamSnapshotsResponse | None:
        """Return what one is to be told that was `known` to have a snapshot of this term (the default one: none).

        None while nothing was published.
        """
        if self._routed is None:
            return None
        if known < self._all_known:
            known = Generation()
        if (message := self._messages.get(known)) is None:
            message = self._messages[known] = self._message(self._routed, known)
        return message

    def changed(self, names: Collection[str]) -> Generation:
        """Return the generation since which what is known of these applications is as it is, for callers by handles."""
        return self._parts.changed(names)

    def part(self, names: Collection[str]) -> StreamSnapshotsResponse:
        """Return what a caller by handles is told that asks for these applications."""
        part = Snapshot(self.at, self._parts.of(names), asked=tuple(sorted(names)))
        return StreamSnapshotsResponse(snapshot=wire.to_proto(part, discovery_service_pb2.Snapshot))

    def _message(self, routed: Snapshot, known: Generation) -> StreamSnapshotsResponse:
        rest, told = replace(routed, generation=self.at, applications=()), routed.applications
        if known != Generation():
            told = tuple(each for each in told if self._changed[each.name] > known)
            gone = tuple(sorted(name for name, at in self._gone.items() if at > known))
            rest = replace(rest, since=known, gone=gone)
        message = wire.to_proto(rest, discovery_service_pb2.Snapshot)
        message.applications.extend(map(self._application, told))
        return StreamSnapshotsResponse(snapshot=message)

    def _application(self, routed: RoutedApplication) -> discovery_service_pb2.RoutedApplication:
        make = lambda: wire.to_proto(routed, discovery_service_pb2.RoutedApplication)  # noqa: E731
        return self._encoded.get(routed.name, (routed,), make)
