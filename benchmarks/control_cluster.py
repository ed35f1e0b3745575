"""An etcd, control planes as users start them, and the processes of their peers, on free loopback ports.

Whatever is started here ends with the benchmark, also when that is killed. Used by `benchmarks.control_plane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.greeter import GRPC_EXPERIMENTS
from tests.support.etcd import EtcdCluster, free_port

ANSWER_S = 60.0
_LINE_BYTES_MAX = 1 << 20


def _ends_with_us(command: list[str]) -> list[str]:
    """Let the kernel kill a process when this one is gone."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command


class Control:
    """One `meshctl controlplane`, which can be killed and started again at its port."""

    def __init__(self, store: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not waited for."""
        meshctl = str(Path(sys.executable).with_name("meshctl"))
        command = [meshctl, "controlplane", "--store", self._store, "--port", self.address.rpartition(":")[2]]
        log = os.environ.get("CONTROL_LOG")
        with open(log, "ab") if log else contextlib.nullcontext() as stderr:
            self._process = subprocess.Popen(
                _ends_with_us([*command, "--admin-port", "0", "-o", "json"]),
                stdout=subprocess.DEVNULL,
                stderr=stderr or subprocess.DEVNULL,
            )

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def process(self) -> psutil.Process:
        """The process that runs."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        """CPU seconds that it has spent."""
        return float(sum(self.process.cpu_times()[:2]))


class Peers:
    """A process of `benchmarks.control_peers`."""

    def __init__(self, kind: str, control: tuple[str, ...]) -> None:
        self._command = [sys.executable, "-m", "benchmarks.control_peers", kind, "--control", ",".join(control)]
        self._process: asyncio.subprocess.Process | None = None
        self._answers: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            env={"GRPC_VERBOSITY": "NONE", **os.environ, "GRPC_EXPERIMENTS": GRPC_EXPERIMENTS},
        )
        self._reading = asyncio.create_task(self._read())
        await self.answers("ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None and self._reading is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def tell(self, do: str, **order: Any) -> None:
        """Give an order."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")

    async def answers(
        self, key: str, count: int = 1, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> list[dict[str, Any]]:
        """Wait for so many answers that have a key and are as they should be, and take them."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                found = [answer for answer in self._answers if key in answer and where(answer)]
                if len(found) >= count:
                    self._answers = [answer for answer in self._answers if answer not in found]
                    return found
                self._news.clear()
                await self._news.wait()

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._answers.append(json.loads(line))
            self._news.set()


class Cluster:
    """An etcd with a first control plane, and room for a second."""

    def __init__(self) -> None:
        self._etcd = EtcdCluster()

    def __enter__(self) -> Self:
        self._etcd.__enter__()
        store = f"etcd://{self._etcd.endpoints[0]}/bench"
        self.control, self.standby = Control(store), Control(store)
        self.control.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.control.kill()
        self.standby.kill()
        self._etcd.stop()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the control planes are or will be."""
        return self.control.address, self.standby.address

    def etcd_counts(self) -> dict[str, float]:
        """Return the bytes that etcd has written to its log and been sent, and its CPU seconds."""
        with urllib.request.urlopen(f"http://{self._etcd.endpoints[0]}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        counts = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}
        return {
            "written": counts["etcd_disk_wal_write_bytes_total"],
            "received": counts["etcd_network_client_grpc_received_bytes_total"],
            "sent": counts["etcd_network_client_grpc_sent_bytes_total"],
            "cpu_s": sum(psutil.Process(self._etcd.members[0].pid).cpu_times()[:2]),
            "at": time.monotonic(),
        }
