"""One system under measurement: started under a keeper, waited for, measured from outside, ended.

A system is launched by commands on free loopback ports and asked for one thing, over HTTP or gRPC, all the time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import psutil

ROOT = Path(__file__).parents[2]
ANSWER = {"ok": True}
READY_S = 90.0
ASK_S = 10.0
STOP_S = 40.0
POLL_S = 0.02
LOG_TAIL = 1500
DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables that would reach into an environment from outside."""


class PeerFailed(Exception):
    """A system could not be installed, started or measured; the message says why."""


@dataclass(frozen=True)
class Target:
    """What is asked, at "host:port": an HTTP path, by POST of JSON if there is a `body`; or `grpc`, a method's path."""

    address: str
    path: str = "/"
    body: str = ""
    grpc: str = ""
    answer: Mapping[str, Any] = field(default_factory=lambda: ANSWER)
    """The JSON that it is to answer with; of a gRPC method only that it is not empty is seen."""

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.path}"

    def __str__(self) -> str:
        if self.grpc:
            return f"gRPC {self.grpc}"
        return f"POST {self.path} {self.body}" if self.body else f"GET {self.path}"


@dataclass(frozen=True)
class Launch:
    """How a system is started: commands, the variables they get beyond ours, and what it answers to."""

    commands: tuple[tuple[str, ...], ...]
    target: Target
    variables: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 8.0


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Running:
    """A launched system; leaving it ends it with all its processes. It lives in `home`, also its log."""

    def __init__(self, name: str, launch: Launch, home: Path) -> None:
        self.name = name
        self.target = launch.target
        self._log = home / "log"
        variables = {name: value for name, value in os.environ.items() if name not in DROPPED}
        variables |= {"HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        variables |= {"PYTHONDONTWRITEBYTECODE": "1", **launch.variables}
        asked = json.dumps({"commands": launch.commands, "cwd": str(home), "grace_s": launch.grace_s})
        command = [sys.executable, "-m", "benchmarks.peers.keeper", asked]
        with self._log.open("w") as log:
            self._keeper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=variables,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        if not line:
            raise PeerFailed(f"the keeper of {self.name} did not start: {self.said()}")
        self._started = float(json.loads(line)["at"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def said(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:].strip()

    def first_answer_s(self) -> float:
        """Return the seconds from its start to its first right answer."""
        answered = "nothing"
        while time.monotonic() - self._started < READY_S:
            if self._keeper.poll() is not None:
                raise PeerFailed(f"{self.name} ended while starting: {self.said()}")
            with contextlib.suppress(OSError, http.client.HTTPException, grpc.RpcError):
                answered = self._ask()
                if not answered:
                    return time.monotonic() - self._started
            time.sleep(POLL_S)
        raise PeerFailed(f"{self.name} not ready within {READY_S:g} s: it answered {answered} and said: {self.said()}")

    def _ask(self) -> str:
        """Ask once; return what is wrong with the answer."""
        target = self.target
        if target.grpc:
            with grpc.insecure_channel(target.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(target.grpc)
                return "" if call(b"", timeout=ASK_S) else "an empty message"
        connection = http.client.HTTPConnection(target.address, timeout=ASK_S)
        try:
            headers = {"Content-Type": "application/json"} if target.body else {}
            connection.request("POST" if target.body else "GET", target.path, target.body or None, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            return f"{response.status} {content[:200]!r}"
        return "" if json.loads(content) == self.target.answer else repr(content[:200])

    def processes(self) -> list[psutil.Process]:
        """Return all that came of the commands."""
        return psutil.Process(self._keeper.pid).children(recursive=True)

    def cpu_s(self) -> float:
        """Return the CPU seconds that its living processes have spent."""
        return sum(sum(times[:2]) for times in self._each("cpu_times"))

    def memory_mb(self) -> dict[str, float]:
        """Return what is resident: summed, and with what processes share counted once (proportional set size)."""
        full = self._each("memory_full_info")
        return {
            "resident_mb": round(sum(each.rss for each in full) / 1e6, 1),
            "proportional_mb": round(sum(each.pss for each in full) / 1e6, 1),
        }

    def _each(self, method: str) -> list[Any]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.append(getattr(process, method)())
        return found

    def stop(self) -> None:
        """End it; nothing of it is left."""
        if self._keeper.poll() is not None:
            return
        left = self.processes()
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(STOP_S)
        except BaseException:
            for process in (psutil.Process(self._keeper.pid), *left):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._keeper.wait()
            raise
        finally:
            self._keeper.stdout.close()
