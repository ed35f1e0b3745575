"""How a worker and the processes it launches (replicas, builds) talk: stdin, then the status descriptor.

stdin carries messages of the form [4-byte big-endian length][bytes]: a build gets one, what to build; a replica two,
what to run and what is around it (where its credentials and the control plane are). It stays open while the parent
lives: its end of file is the parent's death. The status descriptor carries what the child has to say. Owns the child
side of that and the framing. Never imports grpc. Called by the build, the replica and, for the framing, the worker's
processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os

from mesh.errors import Unreachable
from mesh.security import NO_SECURITY, Security

LENGTH_BYTES = 4
_CHUNK_BYTES = 64 * 1024


def framed(payload: bytes) -> bytes:
    """Return `payload` with its length in front."""
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around a replica. There is no secret in it: it names files."""

    security: Security = NO_SECURITY
    control: tuple[str, ...] = ()
    """host:port of each control plane."""

    def message(self) -> bytes:
        """Return the message that tells a replica of it."""
        return json.dumps({"security": dataclasses.asdict(self.security), "control": self.control}).encode()

    @classmethod
    def of(cls, message: bytes) -> Surroundings:
        """Return what the parent said in `message`."""
        told = json.loads(message)
        return cls(Security(**told["security"]), tuple(told["control"]))


def take_stdin() -> int:
    """Move stdin to a descriptor that no child process inherits and put /dev/null in its place. Returns it."""
    lifeline = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return lifeline


def enter(working_dir: str) -> None:
    """Enter the directory that this process runs in. One that was launched ahead is not there yet.

    What cannot be entered any more is told when code is loaded from there.
    """
    if os.path.isabs(working_dir):
        with contextlib.suppress(OSError):
            os.chdir(working_dir)


def read_message(fd: int) -> bytes:
    """Return the next message that the parent wrote. Raises Unreachable if the parent died before it had."""
    length = int.from_bytes(_read(fd, LENGTH_BYTES), "big")
    return _read(fd, length)


def _read(fd: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.read(fd, min(length, _CHUNK_BYTES))
        if not part:
            raise Unreachable("the parent process ended before it said what to run")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
