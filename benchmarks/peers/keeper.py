"""Starts commands and ends all that came of them, whoever dies first.

A system under measurement may start processes that outlive it or leave its process group. The keeper is their
subreaper: whatever loses its parent becomes a child of the keeper, so that the tree stays whole for those who measure
it and nothing is left behind. It ends the tree when its stdin closes, so also when its owner was killed, when it is
told to terminate, and when one of the commands ends.
Run: python -m benchmarks.peers.keeper '{"commands": [["sleep", "60"]], "cwd": "/", "grace_s": 5}'
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.25
_KILL_S = 10.0


def reap() -> set[int]:
    """Collect the children that have ended and return their pids."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    return ended


def gone(within_s: float) -> bool:
    """Wait until nothing is left of the tree; False if something is."""
    end = time.monotonic() + within_s
    while True:
        reap()
        if not psutil.Process().children():
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)


def end(pids: list[int], grace_s: float) -> None:
    """Ask the commands, the last first, to terminate; kill what is left of the tree after `grace_s`."""
    for pid in reversed(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if gone(grace_s):
        return
    end_at = time.monotonic() + _KILL_S
    while time.monotonic() < end_at:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if gone(0.2):
            return


def main() -> int:
    """Keep the commands until told otherwise; 1 if one of them ended by itself."""
    asked = json.loads(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, _: told.append(signum))
    pids: list[int] = []
    alone = False
    try:
        print(json.dumps({"at": time.monotonic()}), flush=True)
        for command in asked["commands"]:
            # What they say goes where the keeper complains: its stdout is for the owner.
            started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd=asked["cwd"])
            pids.append(started.pid)
        while not told and not alone:
            if select.select([sys.stdin], [], [], _TICK_S)[0] and not os.read(sys.stdin.fileno(), 1):
                break
            alone = not reap().isdisjoint(pids)
    finally:
        end(pids, asked["grace_s"])
    return int(alone)


if __name__ == "__main__":
    sys.exit(main())
