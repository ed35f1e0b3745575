"""Servers of the benchmarks: process trees of their own on free loopback ports, measured from outside.

Owns their start and end; each ends with the benchmark, however that ends. What a tree spends is read by role.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Self

import psutil

from benchmarks.forked import die_with

HERE = Path(__file__).parent
MESHCTL = str(Path(sys.executable).with_name("meshctl"))
READY_S = 60.0
END_S = 40.0
FREE_PORTS = ("--port", "0", "--grpc-port", "0", "--control-port", "0", "--admin-port", "0")


class Served:
    """A server that says one line of JSON, `said`, when it is ready."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str] | None = None,
        errors: IO[str] | None = None,
        stdin: int | None = None,
    ) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if errors is None else errors,
            text=True,
            cwd=HERE.parent,
            env={**os.environ, **(environment or {})},
            preexec_fn=functools.partial(die_with, os.getpid()),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)} failed with code {self.process.wait()}; run it by hand to see why")
        self.said: dict[str, Any] = json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

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
        """Wait for a 200; return the seconds since the start of the process."""
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as response:
                    if response.status == 200:
                        return time.perf_counter() - self.started
            except urllib.error.URLError:
                if time.perf_counter() - self.started > READY_S:
                    raise
                time.sleep(0.005)


class Mesh(Served):
    """A `meshctl run` of what is in this directory."""

    def __init__(self, target: str, *flags: str, directory: Path = HERE, errors: IO[str] | None = None) -> None:
        where = () if target.endswith(".yaml") else ("--working-dir", str(directory))
        super().__init__([MESHCTL, "run", target, *where, *FREE_PORTS, *flags, "-o", "json"], errors=errors)

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
