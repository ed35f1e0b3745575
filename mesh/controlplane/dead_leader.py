"""Whether the process that led is surely gone: it ran on this machine, where one can look.

Owns the mark by which a process is known again: which start of the machine, which namespace of processes, number and
time of start. Says "gone" only of what cannot run any more, never of another machine's processes, nor where the system
does not tell. Linux only. Called by `leader`.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_DEAD = ("Z", "X")


def own_mark() -> str:
    """Return the mark of this process; "" where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
        state = _state(os.getpid())
    except OSError:
        return ""
    return " ".join((boot, namespace, str(os.getpid()), state[1])) if state else ""


def is_gone(mark: str) -> bool:
    """Whether the process with this mark ran here and does no more."""
    own, other = own_mark().split(), mark.split()
    if len(own) != 4 or len(other) != 4 or own[:2] != other[:2] or not other[2].isdecimal():
        return False
    pid = int(other[2])
    try:
        state = _state(pid)
    except OSError:  # it ended, or /proc hides it
        state = None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is somebody's whom we may not look at
        return False
    return state is not None and (state[0] in _DEAD or state[1] != other[3])


def _state(pid: int) -> tuple[str, str] | None:
    """Return state and time of start of a process. Raises OSError if there is none or it is hidden."""
    text = (_PROC / str(pid) / "stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else None
