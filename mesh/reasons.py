"""The closed sets of reasons: why something is in its state, and what kind of event happened.

Owns the enums. Names and numbers are those of `Reason` in `protos/mesh/v1/deployment.proto` and of
`protos/mesh/v1/event.proto`; what each means stands there, and for users in `docs/reference-states.md`. Pure.
Imported by `model`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class _Known(IntEnum):
    """An enum to which the words of a newer version mean nothing, and do no harm."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls(0) if isinstance(value, int) and value else None


class Reason(_Known):
    """Why an application, deployment, replica or worker is in its state."""

    UNSPECIFIED = 0
    READY = 1
    BUILDING = 2
    NO_WORKER = 3
    WAITING_FOR_ROOM = 4
    WAITING_FOR_WORKER = 5
    PREPARING_ENVIRONMENT = 6
    STARTING = 7
    ROLLING_OUT = 8
    SCALING = 9
    WAITING_FOR_APPLICATIONS = 10
    SETTINGS_PENDING = 11
    PAUSED = 12
    DRAINING = 13
    DRAINED = 14
    STOPPED = 15
    DELETING = 16
    BUILD_FAILED = 30
    ENVIRONMENT_FAILED = 31
    START_FAILED = 32
    STARTUP_TIMEOUT = 33
    HEALTH_CHECK_FAILED = 34
    CRASHED = 35
    CRASH_LOOP = 36
    SETTINGS_REFUSED = 37
    DRAIN_TIMEOUT = 38
    ROLLED_BACK = 39
    HELD = 40
    APPLICATION_FAILED = 41
    DISCONNECTED = 42
    WORKER_LOST = 43


class Severity(_Known):
    """How much an event matters."""

    UNSPECIFIED = 0
    NORMAL = 1
    WARNING = 2


class EventReason(_Known):
    """What kind of thing happened."""

    UNSPECIFIED = 0
    APPLIED = 1
    BUILDING = 2
    BUILT = 3
    SERVING = 4
    REVISION_FAILED = 5
    ROLLED_BACK = 6
    SCALED = 7
    RESTARTED = 8
    PAUSED = 9
    RESUMED = 10
    LEAVING = 11
    KEPT = 12
    DELETING = 13
    DELETED = 14
    PLACED = 20
    PREPARING = 21
    READY = 22
    START_FAILED = 23
    STARTUP_TIMEOUT = 24
    CRASHED = 25
    HEALTH_CHECK_FAILED = 26
    UNHEALTHY = 27
    RECOVERED = 28
    SETTINGS_REFUSED = 29
    STOPPING = 30
    STOPPED = 31
    DRAIN_TIMEOUT = 32
    FORGOTTEN = 33
    CONNECTED = 40
    DISCONNECTED = 41
    LOST = 42
    LEFT = 43
    DRAINING = 44
    DRAINED = 45
    LEADER_CHANGED = 60
