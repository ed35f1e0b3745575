"""The snapshot that a stream has come to, put together from what it brought: a whole one first, then what changed.

Owns the whole. A snapshot that changes another one than is held cannot be taken. Pure. Called by `discovery`.
"""

from __future__ import annotations

from mesh.v1 import discovery_service_pb2 as pb


class NotWhole(Exception):
    """A snapshot that does not go with what is held."""


class HeldSnapshot:
    """What one stream has told so far."""

    def __init__(self) -> None:
        self._whole = pb.Snapshot()

    def take(self, snapshot: pb.Snapshot) -> pb.Snapshot:
        """Return the whole snapshot that this one makes. It is to be read until the next is taken. Raises NotWhole."""
        if not snapshot.HasField("since"):
            self._whole = snapshot
            return snapshot
        whole = self._whole
        if snapshot.since != whole.generation:
            raise NotWhole(f"it changes snapshot {_text(snapshot.since)}, and {_text(whole.generation)} is held")
        at = {application.name: i for i, application in enumerate(whole.applications)}
        if not snapshot.gone and all(application.name in at for application in snapshot.applications):
            for application in snapshot.applications:
                whole.applications[at[application.name]].CopyFrom(application)
        else:
            known = {application.name: application for application in whole.applications}
            known |= {application.name: application for application in snapshot.applications}
            left = sorted(known.keys() - set(snapshot.gone))
            whole = pb.Snapshot(applications=[known[name] for name in left])
        whole.generation.CopyFrom(snapshot.generation)
        whole.request_timeout_s = snapshot.request_timeout_s
        whole.ClearField("cors")
        if snapshot.HasField("cors"):
            whole.cors.CopyFrom(snapshot.cors)
        self._whole = whole
        return whole


def _text(generation: object) -> str:
    return f"{getattr(generation, 'epoch', 0)}.{getattr(generation, 'number', 0)}"
