"""How long calls that come one by one gather into a message: only where the processor is what all of them wait for.

A message costs either side some ten times what a frame in it does: system calls and switches between threads. Calls
that come singly go out singly, their answers come back singly, and so their clients call again: a pipe stays with
messages of one frame, also when there is no time for them. So once this thread lacks time, calls wait for one another,
and from then on they travel in groups all the way round. A thread that has time never waits.
Pure: time is handed in. Called by `outbox`.
"""

from __future__ import annotations

GATHER_MIN_S = 0.0005
"""Shorter waits are none: the event loop's timers have a resolution of 1 ms."""
GATHER_MAX_S = 0.012
SATURATED = 0.85
"""Share of its time that a thread computes or waits for a processor, from which on it lacks time."""
RELIEVED = 0.6
"""Share below which it has time again: gathering itself relieves it."""
WINDOW_S = 0.05
"""Seconds over which rate and share are measured."""


class Pace:
    """What the writer of one pipe has seen of its rate, its calls and its thread."""

    __slots__ = ("_frames", "_most", "_most_before", "_since", "_wanted_s", "rate", "saturated")

    def __init__(self) -> None:
        self.rate = 0.0
        """Frames per second."""
        self.saturated = False
        self._frames = 0
        self._since = 0.0
        self._wanted_s = 0.0
        self._most = 0
        self._most_before = 0

    def wrote(self, frames: int, now: float) -> bool:
        """Count frames that were written; return whether `measure` is due."""
        self._frames += frames
        return now - self._since >= WINDOW_S

    def measure(self, now: float, wanted_s: float) -> None:
        """Take stock at `now`; `wanted_s`: seconds in which the thread computed or waited for a processor, in all."""
        passed_s = now - self._since
        self.rate = self._frames / passed_s
        bound = RELIEVED if self.saturated else SATURATED
        self.saturated = self._since > 0.0 and wanted_s - self._wanted_s >= bound * passed_s
        self._frames, self._since, self._wanted_s = 0, now, wanted_s
        self._most, self._most_before = 0, self._most

    def gather(self, calls: int) -> tuple[int, float]:
        """Return for how many frames to wait, and seconds at most, with so many calls on the pipe; 0: not at all.

        As many as were on it at once of late: in a closed loop all of them come, and the wait ends with the last.
        """
        if calls > self._most:
            self._most = calls
        if not self.saturated:
            return 0, 0.0
        frames = max(self._most, self._most_before)
        wait_s = min(frames / self.rate, GATHER_MAX_S)
        return (frames, wait_s) if frames > 1 and wait_s >= GATHER_MIN_S else (0, 0.0)
