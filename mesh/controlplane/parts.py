"""The parts of a snapshot that callers by handles get: those of the applications that they ask for.

Owns since which generation each application's part is as it is, so that a caller is told only what changed for it, and
counts as routing by the newest snapshot when nothing did. Pure. Called by `term`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mesh.controlplane.memo import Memo
from mesh.controlplane.publish import RoutedApplication, Snapshot
from mesh.model import Generation, Interface

APPLICATIONS_MAX = 1000
"""Names that one caller may ask for."""


class Parts:
    """What is known of each application, without what only gateways need."""

    def __init__(self) -> None:
        self._parts: dict[str, RoutedApplication] = {}
        self._made: Memo[RoutedApplication] = Memo()
        self._changed: dict[str, Generation] = {}

    def note(self, routed: Snapshot, generation: Generation, asked: Collection[str]) -> None:
        """Take the newest snapshot, of that generation. `asked` are all names that somebody asks for."""
        before = self._parts
        self._parts = {application.name: self._part(application) for application in routed.applications}
        self._made.keep(self._parts)
        for name in before.keys() | self._parts.keys():
            if before.get(name) != self._parts.get(name):
                self._changed[name] = generation
        kept = self._parts.keys() | set(asked)
        self._changed = {name: at for name, at in self._changed.items() if name in kept}

    def _part(self, application: RoutedApplication) -> RoutedApplication:
        return self._made.get(application.name, (application,), lambda: _without_interfaces(application))

    def changed(self, names: Collection[str]) -> Generation:
        """Return the generation since which what is known of these applications is as it is."""
        return max((at for name in names if (at := self._changed.get(name)) is not None), default=Generation())

    def of(self, names: Collection[str]) -> tuple[RoutedApplication, ...]:
        """Return what is known of these applications."""
        return tuple(part for name in sorted(names) if (part := self._parts.get(name)) is not None)


def _without_interfaces(application: RoutedApplication) -> RoutedApplication:
    return replace(
        application,
        deployments=tuple(replace(each, interface=Interface()) for each in application.deployments),
    )
