"""What Ctrl-C does to a command that is not serving yet, or never does.

Owns the handler of SIGINT outside event loops: while code is loaded and nothing has begun, the process ends at once; a
command that has something to undo, or to say, asks for KeyboardInterrupt. Called by `__main__` and the commands.
While a process serves, `mesh.lifecycle` has the signals.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_EXIT_INTERRUPTED = 130


def end_at_once() -> None:
    """From here on end the process silently on Ctrl-C.

    An exception would not do: raised inside an import it is printed, or swallowed by a callback of the import system.
    """
    signal.signal(signal.SIGINT, _end)


def raise_it() -> None:
    """From here on raise KeyboardInterrupt on Ctrl-C, or let an event loop cancel its task."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_: int, __: FrameType | None) -> None:
    os._exit(_EXIT_INTERRUPTED)
