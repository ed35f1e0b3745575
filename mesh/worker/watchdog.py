"""Kills what a worker's children started, when the worker itself is killed.

The kernel ends replicas and builds with their worker, but not the processes that user code started: those are in the
process groups of the replicas, and by then nobody is left to kill a group. So a worker keeps one tiny shell beside it,
in a session of its own, that knows these groups and waits for the end of file on its stdin. Owns that shell. A group
has to be guarded before user code runs in it. Called by `process`, started and stopped by the server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess

from mesh.errors import MeshError

log = logging.getLogger("mesh.worker")

_SCRIPT = """
trap '' HUP INT TERM QUIT
groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -) left=; for g in $groups; do [ "$g" = "$group" ] || left="$left $g"; done; groups=$left ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
"""
_STOP_TIMEOUT_S = 2.0


class Watchdog:
    """The shell and what it was told."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the shell and tell it all groups. Raises MeshError."""
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise MeshError(f"cannot start /bin/sh, which a worker needs beside it: {error.strerror}") from error
        assert self._process.stdin is not None
        # A shell that does not read, stopped by somebody, must not stop the worker.
        os.set_blocking(self._process.stdin.fileno(), False)
        for group in self._groups:
            self._say("+", group)

    def guard(self, group: int) -> None:
        """Kill this process group if the worker dies from now on."""
        self._groups.add(group)
        if not self._say("+", group):
            self._abandon()
            try:
                self.start()
            except MeshError as error:
                log.error("%s", error.message)

    def release(self, group: int) -> None:
        """The group is gone; its number may come to mean something else."""
        self._groups.discard(group)
        self._say("-", group)

    def stop(self) -> None:
        """End the shell; it kills the groups that it still guards."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _abandon(self) -> None:
        """End the shell without giving it the time to kill anything."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _say(self, sign: str, group: int) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            return bool(self._process.stdin.write(f"{sign} {group}\n".encode()))
        except OSError as error:
            log.warning("watchdog of process groups is gone: %s", error)
            return False
