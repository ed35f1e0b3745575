"""What a child process prints: lines out of bytes, the last of them kept, the rest bounded and counted.

Owns the bounds on length, rate and memory. Never blocks, reads a clock or logs; the reader of the pipe feeds it bytes
and logs what it returns.
"""

from __future__ import annotations

from collections import deque

LINE_BYTES_MAX = 8 * 1024
LINES_KEPT = 200
LINES_PER_SECOND_MAX = 500
KEPT_PER_SECOND_MAX = 2000
"""The same where they go to the disk, and so to whoever asks for them."""
_CUT = " … (line cut)"


class Output:
    """Lines of one replica, over all its processes."""

    def __init__(self, passed_max: int = LINES_PER_SECOND_MAX) -> None:
        """`passed_max`: lines a second that are handed on, at least twice LINES_KEPT."""
        self._passed_max = passed_max
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        """The last lines, oldest first."""
        self._part = bytearray()
        self._overlong = False
        self._second = -1
        self._told = 0
        self._left_out = 0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Take what was read at `now`; return the lines to log. Costs no more than the lines that are handed on."""
        head, newline, rest = data.partition(b"\n")
        self._extend(head)
        if not newline:
            return []
        first = self._take()
        middle, newline, last = rest.rpartition(b"\n")
        lines_max = self._passed_max // 2
        lines = middle.rsplit(b"\n", lines_max) if newline else []
        if len(lines) > lines_max:
            self._left_out += lines[0].count(b"\n") + 1
            del lines[0]
        self._extend(last)
        return self._passed([first, *map(_text, lines)], now)

    def end(self) -> list[str]:
        """The process is gone: return what is left to log."""
        lines = [self._take()] if self._part or self._overlong else []
        self.lines.extend(lines)
        return [*self._notice(), *lines]

    def tail(self, count: int) -> str:
        """Return the last `count` lines as one text."""
        return "\n".join(list(self.lines)[-count:])

    def _extend(self, data: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._part)
        self._part += data[:room]
        self._overlong = self._overlong or len(data) > room

    def _take(self) -> str:
        line = _text(bytes(self._part), overlong=self._overlong)
        self._part.clear()
        self._overlong = False
        return line

    def _passed(self, lines: list[str], now: float) -> list[str]:
        self.lines.extend(lines)
        if (second := int(now)) != self._second:
            self._second, self._told = second, 0
        passed = lines[: self._passed_max - self._told]
        notice = self._notice() if passed else []
        self._told += len(passed)
        self._left_out += len(lines) - len(passed)
        return [*notice, *passed]

    def _notice(self) -> list[str]:
        if not self._left_out:
            return []
        left_out, self._left_out = self._left_out, 0
        return [f"… {left_out} lines left out"]


def _text(line: bytes, *, overlong: bool = False) -> str:
    overlong = overlong or len(line) > LINE_BYTES_MAX
    text = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip("\r")
    return text + _CUT if overlong else text
