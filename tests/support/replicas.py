"""Starts real replica processes for tests, by the launch protocol, from a module that the test wrote.

A `ReplicaProcess` is what a worker would run: `python -m mesh.worker.replica`, a spec on stdin, a status line when it
is ready. It is stopped (drained) or killed by its pid. What it logs is kept for the test to look at.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psutil

from mesh import wire
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, RuntimeEnv
from mesh.security import Security
from mesh.v1 import deployment_pb2, replica_service_pb2
from mesh.v1.replica_service_pb2_grpc import ReplicaServiceStub
from mesh.worker.launch import Surroundings, framed

READY_SECONDS = 30.0
END_SECONDS = 15.0
ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)


class ReplicaProcess:
    """One replica. Use as an async context manager; leaving it kills what is left."""

    def __init__(
        self,
        directory: Path,
        import_path: str,
        *,
        deployment: str,
        settings: DeploymentSettings,
        application: str = "default",
        control: tuple[str, ...] = (),
    ) -> None:
        self.control = control
        self.replica_id = f"{deployment}-{next(_numbers)}"
        self.address = ""
        self.admin_address = ""
        self.directory = directory
        self.log_path = directory / f"{self.replica_id}.log"
        config = ApplicationConfig(
            name=application, import_path=import_path, runtime_env=RuntimeEnv(working_dir=str(directory))
        )
        self.spec = ReplicaSpec(
            replica_id=self.replica_id,
            application=application,
            deployment=deployment,
            config=config,
            settings=settings,
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it wrote to stdout and stderr so far."""
        return self.log_path.read_text()

    async def start(self) -> None:
        """Start the process and wait until it takes calls."""
        status, child_status = os.pipe()
        os.set_blocking(status, False)
        with self.log_path.open("wb") as log:
            # Not the event loop's own way to start processes: it forks, which grpc's threads do not take well.
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments(child_status)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(child_status,),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        os.close(child_status)
        assert self._process.stdin is not None
        self._process.stdin.write(framed(wire.to_proto(self.spec, deployment_pb2.ReplicaSpec).SerializeToString()))
        self._process.stdin.write(framed(Surroundings(Security(), self.control).message()))
        self._process.stdin.flush()
        try:
            said = json.loads(await _line(status))
        except (TimeoutError, ValueError):
            raise AssertionError(f"{self.replica_id} did not become ready\n{self.log}") from None
        finally:
            os.close(status)
        assert said["state"] == "ready", said
        self.address, self.admin_address = said["address"], said["admin_address"]

    async def configure(self, **changed: Any) -> None:
        """Put changed settings in force, as its worker does."""
        settings = deployment_pb2.DeploymentSettings()
        settings.CopyFrom(wire.to_proto(self.spec.settings, deployment_pb2.DeploymentSettings))
        for name, value in changed.items():
            setattr(settings, name, value)
        async with grpc.aio.insecure_channel(self.address) as channel:
            request = replica_service_pb2.ConfigureRequest(settings=settings)
            await ReplicaServiceStub(channel).Configure(request, timeout=END_SECONDS)

    async def ongoing(self) -> int:
        """Return how many slots are taken, from its metrics."""
        text = await asyncio.to_thread(_fetch, f"http://{self.admin_address}/metrics")
        found = re.search(r"^mesh_replica_ongoing_requests\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
        assert found, text
        return int(float(found[1]))

    def descriptors(self) -> int:
        """Return how many file descriptors it has open."""
        return psutil.Process(self.pid).num_fds()

    def terminate(self) -> None:
        """Ask it to drain and end."""
        os.kill(self.pid, signal.SIGTERM)

    async def stop(self) -> int:
        """Drain it, wait for its end, return the exit code."""
        self.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, END_SECONDS)

    async def kill(self) -> None:
        """Kill -9 what is left of it. Right at any time."""
        if self._process is not None:
            self._process.kill()
            await self.ended()
            assert self._process.stdin is not None
            self._process.stdin.close()

    @staticmethod
    def _arguments(status: int) -> list[str]:
        return ["-m", "mesh.worker.replica", "--status-fd", str(status), "--parent", str(os.getpid())]


async def _line(fd: int) -> str:
    """Read one line from a pipe, within the time a start may take."""
    loop = asyncio.get_running_loop()
    said = b""
    async with asyncio.timeout(READY_SECONDS):
        while not said.endswith(b"\n"):
            readable = asyncio.Event()
            loop.add_reader(fd, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(fd)
            part = os.read(fd, 65536)
            if not part:
                break
            said += part
    return said.decode()


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text
