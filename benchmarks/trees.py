"""Servers of the benchmarks: process trees of their own on free loopback ports, measured from outside.

Owns their start and end; each ends with the benchmark, however that ends. What a tree spends is read by role.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import psutil

from benchmarks.forked import die_with

HERE = Path(__file__).parent
MESHCTL = str(Path(sys.executable).with_name("meshctl"))
READY_S = 60.0
END_S = 40.0
FREE_PORTS = ("--port", "0", "--grpc-port", "0", "--control-port", "0", "--admin-port", "0")


class ServerFailed(Exception):
    """A server did not start."""


class Served:
    """A server that says one line of JSON, `said`, when it is ready."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str] | None = None,
        errors: IO[str] | None = None,
        stdin: int | None = None,
        working_dir: Path = HERE.parent,
    ) -> None:
        """Start it and wait until it is ready. Raises ServerFailed, and leaves nothing behind."""
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if errors is None else errors,
            text=True,
            cwd=working_dir,
            env={**_surroundings(), **(environment or {})},
            preexec_fn=functools.partial(die_with, os.getpid()),
        )
        try:
            self.said: dict[str, Any] = json.loads(self._line())
        except ValueError as error:
            raise self._failure(command, f"said {error}") from None
        except TimeoutError:
            raise self._failure(command, f"was not ready within {READY_S:g} s") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ask it to end, and kill what of its tree is left then."""
        tree = self._tree()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        for process in {*tree, *self._tree()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(END_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _line(self) -> bytes:
        """Return the first line it says. Raises TimeoutError."""
        assert self.process.stdout is not None
        fd, line, ends = self.process.stdout.fileno(), b"", self.started + READY_S
        while not line.endswith(b"\n"):
            if not select.select([fd], [], [], max(0.0, ends - time.perf_counter()))[0]:
                raise TimeoutError
            if not (more := os.read(fd, 1)):
                break
            line += more
        return line

    def _failure(self, command: list[str], what: str) -> ServerFailed:
        self.end()
        told = " ".join(command)
        return ServerFailed(f"{told} {what}, and ended with {self.process.returncode}; run it by hand to see why")

    def _tree(self) -> list[psutil.Process]:
        try:
            return self.tree()
        except psutil.NoSuchProcess:
            return []

    @property
    def url(self) -> str:
        """Where it serves HTTP, without a final slash."""
        return str(self.said["http"]).rstrip("/")

    def tree(self) -> list[psutil.Process]:
        """Return its processes."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds that the whole tree has spent."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.tree()))

    def roles(self) -> dict[int, str]:
        """Return the role of each process, by its id."""
        return dict.fromkeys((process.pid for process in self.tree()), "server")

    def first_answer_s(self, path: str = "/") -> float:
        """Wait for a 200; return the seconds since the start of the process. Raises ServerFailed."""
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as response:
                    if response.status == 200:
                        return time.perf_counter() - self.started
            except (OSError, http.client.HTTPException):
                pass
            if time.perf_counter() - self.started > READY_S:
                raise ServerFailed(f"{self.url}{path} did not answer with 200 within {READY_S:g} s")
            time.sleep(0.005)


class Mesh(Served):
    """A `meshctl run` of what is in this directory."""

    def __init__(
        self,
        target: str,
        *flags: str,
        directory: Path = HERE,
        errors: IO[str] | None = None,
        meshctl: Sequence[str] = (MESHCTL,),
    ) -> None:
        """`meshctl`: what stands for it on the command line."""
        where = () if target.endswith(".yaml") else ("--working-dir", str(directory))
        super().__init__([*meshctl, "run", target, *where, *FREE_PORTS, *flags, "-o", "json"], errors=errors)

    def roles(self) -> dict[int, str]:
        """Return "replica" for replicas, and "gateway" for all else: only it has work to do."""
        return {
            process.pid: "replica" if "mesh.worker.replica" in process.cmdline() else "gateway"
            for process in self.tree()
        }


class Gateways(Served):
    """A `meshctl gateway` with several processes before the replicas of another mesh."""

    def __init__(self, behind: Served, processes: int) -> None:
        ports = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")
        where = ("--control", str(behind.said["control"]), "--processes", str(processes))
        super().__init__([MESHCTL, "gateway", *where, *ports, "-o", "json"])
        self._behind = behind

    def roles(self) -> dict[int, str]:
        """Return the roles of these gateways, and of the replicas of the other mesh."""
        replicas = {pid: role for pid, role in self._behind.roles().items() if role == "replica"}
        return {process.pid: "gateway" for process in self.tree()} | replicas


def _surroundings() -> dict[str, str]:
    """Return the environment of this process, as it is usual: Python keeps the byte code of what it compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
