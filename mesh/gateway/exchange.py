"""One request on its way: its call, its deadline, and the watch for a client that leaves.

Owns when a request is slow and when it is given up. Both fronts make one `Exchange` for each request; it speaks
neither HTTP nor gRPC itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mesh.clock import Clock
from mesh.errors import DeadlineExceeded, MeshError
from mesh.gateway.answer import BodyTimeout
from mesh.lifecycle import Tasks
from mesh.pipe.call import Call
from mesh.pipe.dispatch import Dispatcher
from mesh.settings import GatewaySettings

WATCH_AFTER_S = 0.02
"""Seconds after which a request is slow: from then on its client is watched."""
BUSY_REQUESTS = 256
"""From so many at once all of them take that long, and to watch each of them costs a third of what serving it does."""
BUSY_WATCH_AFTER_S = 0.25
"""Seconds after which a request is slow then."""


class Exchanges:
    """The exchanges of one gateway that are not slow yet, and what all of them use."""

    def __init__(self, settings: GatewaySettings, clock: Clock, tasks: Tasks) -> None:
        self.settings = settings
        self.clock = clock
        self.tasks = tasks
        self._young: dict[Exchange, None] = {}
        self._looking = False

    def look_later(self, exchange: Exchange) -> None:
        """Look at an exchange again, soon: if it still runs then, it is slow. One timer serves them all."""
        self._young[exchange] = None
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)

    def forget(self, exchange: Exchange) -> None:
        """Forget an exchange that ended. At once, so that its memory is used again while it is still in the cache."""
        self._young.pop(exchange, None)

    def _look(self) -> None:
        young = self._young
        after_s = WATCH_AFTER_S if len(young) < BUSY_REQUESTS else BUSY_WATCH_AFTER_S
        due = self.clock.monotonic() - after_s
        while young and (oldest := next(iter(young))).started <= due:
            del young[oldest]
            oldest.slow()
        self._looking = bool(young)
        if young:
            wait_s = max(0.001, next(iter(young)).started - due)
            # They may be few again before that.
            asyncio.get_running_loop().call_later(min(wait_s, WATCH_AFTER_S), self._look)


class Exchange:
    """One call with its deadline and its watch for a client that leaves.

    Timer and watch start when the call is slow: a fast call costs no task and no wake-up beyond its answer.
    """

    __slots__ = (
        "_answering",
        "_awaited_since",
        "_deadline",
        "_dispatcher",
        "_exchanges",
        "_is_slow",
        "_limit",
        "_loop",
        "_over",
        "_progress",
        "_reads",
        "_timer",
        "_watch",
        "_watching",
        "call",
        "error",
        "started",
    )

    def __init__(self, exchanges: Exchanges, dispatcher: Dispatcher, call: Call, timeout_s: float) -> None:
        self.call = call
        self.error: MeshError | None = None
        """Why the call was given up."""
        self._limit: asyncio.Timeout | None = None
        self._is_slow = False
        self._exchanges = exchanges
        self._dispatcher = dispatcher
        self._loop = dispatcher.loop
        self._deadline = timeout_s
        self._watch: Callable[[], Awaitable[MeshError]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._progress = self.started = exchanges.clock.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._reads = False
        """The client's body is being read."""
        self._awaited_since = 0.0
        """Since when the client owes the next bytes of it; 0: it does not now."""
        self._answering = False
        if timeout_s > WATCH_AFTER_S:
            exchanges.look_later(self)
        if timeout_s <= BUSY_WATCH_AFTER_S:  # its time may be over while it is young
            self._timer = self._loop.call_later(timeout_s, self._look)

    def watch(self, watch: Callable[[], Awaitable[MeshError]] | None) -> None:
        """Watch for the client's leave by awaiting `watch`, once the call is slow. A watch that began lasts.

        `watch` returns, when the client is gone, with what the call is to end with.
        """
        self._watch = watch
        if self._is_slow:
            self._start_watch()

    def give_up(self, error: MeshError) -> None:
        """End the call with `error`: whoever waits for it sees that, and the replica is told to stop."""
        self.error = self.error or error
        if not self.call.ended or not self.call.body.ended:
            self._dispatcher.cancel(self.call)
            self.call.fail(error)
        if self._limit is not None:  # the client may be what is waited for
            self._limit.reschedule(0.0)
            self._limit = None

    def await_body(self) -> None:
        """The client owes the next bytes of its body from now on; it may not be silent for too long."""
        if not self._awaited_since:
            self._awaited_since = self._exchanges.clock.monotonic()
        if not self._reads:
            self._reads = True
            if self._is_slow and not self._answering:  # its timer knows of the deadline only
                self._look()

    def body_came(self) -> None:
        """Bytes of the body came; the client owes nothing until `await_body`."""
        self._progress = self._exchanges.clock.monotonic()
        self._awaited_since = 0.0

    def body_over(self) -> None:
        """No more of the body is asked for."""
        self._reads = False
        self._awaited_since = 0.0

    def reading(self, limit: asyncio.Timeout | None) -> None:
        """End what waits for the client by `limit`, if the call is given up; None: nothing waits for it."""
        self._limit = limit

    def streaming(self, limit: asyncio.Timeout) -> None:
        """The answer began: from now on only progress is bounded, not the whole. `limit` ends what waits for it."""
        self._limit = limit
        self._answering = True
        self._progress = self._exchanges.clock.monotonic()
        if self._timer is not None:  # else it is young, and this is done if it lasts
            self._look()
            self._is_slow = True
            self._start_watch()

    def progressed(self) -> None:
        """A chunk of the answer was taken by the client."""
        self._progress = self._exchanges.clock.monotonic()

    def end(self) -> None:
        """Free the timers, and the call if it is not over."""
        self._over = True
        self._exchanges.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        # A whole answer needs no cancel: what the handler does after it (a background task) may end.
        if not self.call.ended and not self.call.complete:
            self._dispatcher.cancel(self.call)

    def slow(self) -> None:
        """It was not over when the pipeline looked: from now on it has a timer and a watch of its own."""
        if self._over or self._is_slow:
            return
        self._is_slow = True
        self._start_watch()
        self._look()

    def _look(self) -> None:
        """Give the call up if it is past a limit, else look again when it may be."""
        if self._timer is not None:
            self._timer.cancel()
        settings, now = self._exchanges.settings, self._exchanges.clock.monotonic()
        if self._answering:
            left_s = self._progress + settings.stream_idle_timeout_s - now
            if left_s <= 0:
                self.give_up(DeadlineExceeded(f"no progress for {settings.stream_idle_timeout_s:g} s"))
                return
        else:
            left_s = self.started + self._deadline - now
            if left_s <= 0:
                self.give_up(DeadlineExceeded(f"the request took longer than {self._deadline:g} s"))
                return
            if self._reads:
                body_left_s = (self._awaited_since or now) + settings.body_idle_timeout_s - now
                if body_left_s <= 0:
                    self.give_up(BodyTimeout(f"no byte of the body came for {settings.body_idle_timeout_s:g} s"))
                    return
                left_s = min(left_s, body_left_s)
        self._timer = self._loop.call_later(max(left_s, 0.001), self._look)

    def _start_watch(self) -> None:
        if self._watch is not None and self._watching is None:
            self._watching = self._exchanges.tasks.spawn(self._watch_client(self._watch), name="client-watch")

    async def _watch_client(self, watch: Callable[[], Awaitable[MeshError]]) -> None:
        self.give_up(await watch())
