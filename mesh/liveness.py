"""How a process learns that another one is gone although its connection stands: it is frozen, unplugged, or hangs.

Owns all times of that, each derived from those before it, and the gRPC options that hold them. Two means, for two
kinds of silence. Pings are answered by gRPC's own threads, also while Python is busy: without an answer the host or
the whole process is gone. Heartbeats come from the event loop: without them the other side may live, but leads no more.
Never waits and never reads a clock. Called by every shell that opens or serves a stream.
"""

from __future__ import annotations

from mesh.backoff import Backoff

PING_INTERVAL_S = 5.0
"""Silence after which a connection is pinged, be it idle or busy."""
PING_TIMEOUT_S = 5.0
"""Seconds for the answer; without it the connection is closed and all calls on it end."""
PING_INTERVAL_MIN_S = 1.0
"""What a server takes: less than any client's interval, or jitter on the way would end sound connections."""
ETCD_PING_INTERVAL_S = 10.0
"""etcd ends the connection of a client that pings more often than each 5 s."""
CONNECT_TIMEOUT_S = 2.0
"""Seconds for a connection to a host that may be frozen. Two round trips and no user code: it takes milliseconds."""

STANDSTILL_S = PING_TIMEOUT_S / 2
"""After standing still for so long itself, a process must reckon that its peers have given it up."""
HOLD_S = 0.25
"""Seconds in which it then learns which of them did: the end of a connection was waiting to be read, like the rest."""

HEARTBEAT_INTERVAL_S = 2.0
"""Silence after which either side of a session or snapshot stream says that it is there."""
SILENT_INTERVALS_MAX = 3
"""Intervals without a word after which the other side is given up."""
TAKE_OFFICE_S = 5.0
"""Seconds a control plane may keep a worker, gateway or caller waiting while it takes office."""
ANSWER_TIMEOUT_S = TAKE_OFFICE_S + 1.0
"""Seconds for the first answer on a stream, once connected."""
RECONNECT = Backoff(initial_s=0.2, max_s=0.8, floor=0.25)
"""Pauses between rounds over all known addresses. Short to the end: a control plane that is back knows of nobody who
has not come back to it, and an attempt where nobody listens costs next to nothing."""
STOOD_S = 5.0
"""Seconds after which a stream counts as one that stood: its end is no reason for longer pauses."""
ADDRESSES_EXPECTED = 3
"""Control planes that one worker or gateway knows, in what is promised here; with more, each may cost a little."""


def pings(interval_s: float = PING_INTERVAL_S, *, idle: bool = True) -> tuple[tuple[str, int], ...]:
    """Return the options of a channel that notices a dead connection within `interval_s` + PING_TIMEOUT_S.

    A stream that stands is watched in any case; `idle`: also a channel on which no call is open.
    """
    return (
        ("grpc.keepalive_time_ms", int(interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(PING_TIMEOUT_S * 1000)),
        # What counts in fact: without it the answer has a minute, whatever the option above says.
        ("grpc.http2.ping_timeout_ms", int(PING_TIMEOUT_S * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", int(idle)),
    )


def pings_served() -> tuple[tuple[str, int], ...]:
    """Return the options of a server that takes the pings of such channels, and pings its clients itself."""
    return (*pings(), ("grpc.http2.min_ping_interval_without_data_ms", int(PING_INTERVAL_MIN_S * 1000)))


def silence_limit_s(heartbeat_interval_s: float) -> float:
    """Return the seconds without a word after which the other side of a stream is given up."""
    return SILENT_INTERVALS_MAX * heartbeat_interval_s


def round_s(addresses: int = ADDRESSES_EXPECTED) -> float:
    """Return the seconds within which all addresses are tried once, all but the last of them frozen."""
    return RECONNECT.max_s + addresses * CONNECT_TIMEOUT_S


def return_s(heartbeat_interval_s: float) -> float:
    """Return the seconds within which a worker or gateway has left a frozen leader and asked every other instance."""
    return silence_limit_s(heartbeat_interval_s) + round_s()


class Silence:
    """For how long nothing was heard of the other side, less what this process itself stood still.

    `now` is monotonic seconds. Whoever waits looks again when `wait_s` says.
    """

    def __init__(self, heartbeat_interval_s: float, now: float) -> None:
        self.limit_s = silence_limit_s(heartbeat_interval_s)
        self._interval_s = heartbeat_interval_s
        self._heard = now
        self._look = now + self.limit_s

    def heard(self, now: float) -> None:
        """The other side said something."""
        self._heard = now

    def wait_s(self, now: float) -> float:
        """Return the seconds after which to look again; 0 when the limit is reached.

        Looking late means that this process stood still, not the other side: what that said meanwhile has not been
        read yet, and it gets the whole time again.
        """
        if now > self._look + self._interval_s:
            self._heard = now
        self._look = max(self._heard + self.limit_s, now)
        return self._look - now


class Standstill:
    """Whether this process stood still just now, and may be about to do what was given to another meanwhile.

    `now` is monotonic seconds. Without `tick`, each second, it never does.
    """

    def __init__(self) -> None:
        self._ticked: float | None = None
        self._held_until = 0.0

    def tick(self, now: float) -> None:
        """Time goes on."""
        self.hold_s(now)
        self._ticked = now

    def hold_s(self, now: float) -> float:
        """Return the seconds to wait before something new is begun; 0 nearly always."""
        if self._ticked is not None and now - self._ticked > STANDSTILL_S:
            self._ticked = now
            self._held_until = now + HOLD_S
        return max(0.0, self._held_until - now)
