"""Runs meshctl until whoever started this is gone: then stdin ends, and so does this, killed tests included.

`python -m mesh.testing.child ARGUMENTS`, started by `serving`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from mesh.cli.__main__ import main as meshctl
from mesh.worker.launch import take_stdin

END_S = 30.0


def main() -> int:
    """Run meshctl with this process's arguments and return its exit code."""
    lifeline = take_stdin()
    threading.Thread(target=_end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    return meshctl()


def _end_with(lifeline: int) -> None:
    """End this process when nobody holds the other end of `lifeline` any more."""
    while os.read(lifeline, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(END_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
