"""Serves an application for a test: a `meshctl run` of its own, and where it listens.

Owns the life of that process: started, ready, ended, with all that it started. Knows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mesh.clock import SYSTEM
from mesh.errors import DeadlineExceeded, DeployFailed
from mesh.serving.deployment import Application
from mesh.settings import environment
from mesh.testing.target import import_path

FREE_PORTS = ("--port", "0", "--grpc-port", "0", "--control-port", "0", "--admin-port", "0")
OUTPUT_BYTES_MAX = 1 << 20
LOG_LINES = 20
"""Lines of logs that an error shows."""
LOOK_S = 0.02
"""Seconds between looks for the ready line."""
END_S = 30.0
"""Seconds to end politely in."""


@dataclass(frozen=True)
class Served:
    """An application that is served, and where. Made by `serve`."""

    http: str
    """URL of the HTTP listener, without a final slash."""
    grpc: str
    """host:port for gRPC."""
    control: str
    """host:port of the control plane: what `meshctl --address` takes."""
    admin: str
    """URL of metrics and readiness, without a final slash."""
    pid: int
    _said: BinaryIO = field(repr=False)

    def output(self) -> str:
        """Return what it has written, logs of user code included; of much, the last MiB. Only while it is served."""
        return _text(self._said)


@contextlib.contextmanager
def serve(
    target: str | Path | Application,
    *,
    arguments: Mapping[str, str] | None = None,
    working_dir: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    startup_timeout_s: float = 60.0,
) -> Iterator[Served]:
    """Serve an application in processes of its own until the block ends.

    `target` is an import path ("module:attribute"), a config file, or a bound application that stands at the top of a
    module. `arguments` are for a builder function; `working_dir` is where to import from (the working directory, or
    where the application's module is); `env` are further environment variables; `flags` further flags of `meshctl run`.
    Ports are free ones, on 127.0.0.1. The block begins when the application is ready.

    Raises DeployFailed with what it said if it does not start, DeadlineExceeded if it is not ready within
    `startup_timeout_s`, NotFound for a bound application that cannot be imported.
    """
    if isinstance(target, Application):
        target, found = import_path(target)
        working_dir = working_dir or found
    words = [str(target), *(f"{name}={value}" for name, value in (arguments or {}).items())]
    if working_dir is not None:
        words += ["--working-dir", str(working_dir)]
    kept = {name: value for name, value in environment().items() if not name.startswith("MESH_")}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as ready:
        process = subprocess.Popen(
            [sys.executable, "-m", "mesh.testing.child", "run", *words, *FREE_PORTS, *flags, "-o", "json"],
            stdin=subprocess.PIPE,
            stdout=ready,
            stderr=said,
            env={**kept, **(env or {})},
            start_new_session=True,
        )
        try:
            yield _when_ready(process, ready, said, startup_timeout_s)
        finally:
            _end(process)


def _when_ready(process: subprocess.Popen[bytes], ready: BinaryIO, said: BinaryIO, timeout_s: float) -> Served:
    ends = SYSTEM.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        over = process.poll() is not None
        for line in _text(ready).splitlines(keepends=True):
            if line.startswith('{"ready"') and line.endswith("\n"):
                found = json.loads(line)
                return Served(found["http"], found["grpc"], found["control"], found["admin"], process.pid, said)
        if over:
            raise DeployFailed(_told("the application did not start", said))
        if SYSTEM.monotonic() > ends:
            text = _told(f"the application is not ready after {timeout_s:g} s", said)
            raise DeadlineExceeded(text, hint="see what its constructors do, or give startup_timeout_s")
        pause.wait(LOOK_S)


def _told(what: str, said: BinaryIO) -> str:
    """Return what went wrong: first what meshctl says of it, then its logs."""
    lines = _text(said).splitlines()
    errors = [line for line in lines if not line.startswith("{")]
    return "\n".join(
        (f"{what}:", *errors, "The logs end so:", *(line for line in lines[-LOG_LINES:] if line[:1] == "{"))
    )


def _text(file: BinaryIO) -> str:
    """Return what was written to a file, however another process writes on."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX)).decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process as Ctrl-C does. What it started ends with it, also if it has to be killed."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        assert process.stdin is not None
        process.stdin.close()
