"""Several gateway processes behind the same two ports, for hosts with more processors than one process can use.

Owns the ports, the processes and their end: the kernel spreads connections over them (SO_REUSEPORT), one that dies is
started again, and none outlives this process. Decides nothing about requests: each has limits and queues of its own.
Hosted by the command `gateway`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import logging
import os
import signal
import socket
import sys

from mesh.backoff import Backoff
from mesh.cli.gateway_process import message
from mesh.cli.merged_metrics import merged
from mesh.clock import Clock
from mesh.errors import Conflict, InvalidConfig, MeshError, Problem
from mesh.lifecycle import Tasks, deadline
from mesh.settings import GatewaySettings, LogSettings
from mesh.worker.launch import framed

START_S = 30.0
"""Seconds for a process to listen."""
DRAIN_SPARE_S = 5.0
"""Seconds that a process may take longer to drain than it is told to."""
ASK_S = 1.0
"""Seconds for a process to answer about itself."""
LINE_BYTES_MAX = 16 * 1024
RESTART = Backoff(initial_s=0.2, max_s=10.0, floor=0.5)
LIVED_S = 30.0
"""Seconds after which a process is taken to have started well: the pauses begin anew."""

log = logging.getLogger("mesh.gateway")


class GatewayProcesses:
    """The processes, as one `lifecycle.Server`."""

    def __init__(self, settings: GatewaySettings, logs: LogSettings, count: int, clock: Clock) -> None:
        gateway_id = settings.gateway_id or f"gateway-{clock.token(8)}"
        self._settings = dataclasses.replace(settings, gateway_id=gateway_id, shared_ports=True)
        self._logs = logs
        self._clock = clock
        self._count = count
        self._held: list[socket.socket] = []
        self._tasks = Tasks()
        self._processes: list[_Process] = []
        self.http_address = self.grpc_address = ""

    async def start(self) -> None:
        """Take both ports, and return once all processes listen. Raises Conflict when a port is taken, or MeshError."""
        settings = self._settings
        self._held = [reserved(settings.host, settings.port), reserved(settings.host, settings.grpc_port)]
        port, grpc_port = (held.getsockname()[1] for held in self._held)
        settings = dataclasses.replace(settings, port=port, grpc_port=grpc_port)
        for i in range(self._count):
            own = dataclasses.replace(settings, gateway_id=f"{settings.gateway_id}-{i}")
            self._processes.append(_Process(str(i), message(own, self._logs), self._clock))
        for process in self._processes:
            self._tasks.spawn(process.run(), name=f"gateway process {process.name}")
        await asyncio.gather(*(process.listening for process in self._processes))
        self.http_address, self.grpc_address = self._processes[0].http, self._processes[0].grpc

    def not_ready(self) -> str:
        """Return why one of them should get no traffic, or "". Called from any thread."""
        reasons = ((process.name, process.not_ready()) for process in self._processes)
        return "; ".join(f"process {name}: {reason}" for name, reason in reasons if reason)

    def metrics(self) -> bytes:
        """Return the metrics of all that answer, each with the label `process`. Called from any thread."""
        pages = ((process.name, process.ask("/metrics")) for process in self._processes)
        return merged({name: page[1] for name, page in pages if page is not None})

    async def drain(self) -> None:
        """Have all of them drain at once."""
        limit_s = self._settings.drain_delay_s + self._settings.drain_timeout_s + DRAIN_SPARE_S
        async with deadline(limit_s, "the drain of the gateway processes"):
            await asyncio.gather(*(process.drain() for process in self._processes))

    async def stop(self) -> None:
        """End all of them now."""
        for process in self._processes:
            process.kill()
        await self._tasks.cancel()
        for held in self._held:
            held.close()
        self._held.clear()


class _Process:
    """One process, started again whenever it ends by itself."""

    def __init__(self, name: str, payload: bytes, clock: Clock) -> None:
        self.name = name
        self.http = self.grpc = ""
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it listens for the first time; fails with what kept it from that."""
        self._payload = payload
        self._clock = clock
        self._admin = ""
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Keep it running until it is told to end."""
        failures = 0
        try:
            while not self._ending:
                began = self._clock.monotonic()
                ending = await self._live()
                self._admin = ""
                if not self.listening.done() or self.listening.exception() is not None or self._is_ending():
                    return
                failures = 0 if self._clock.monotonic() - began > LIVED_S else failures + 1
                pause_s = RESTART.pause_s(failures, self._clock.random)
                log.error("gateway process %s %s; starting it again in %.1f s", self.name, ending, pause_s)
                await asyncio.sleep(pause_s)
        finally:
            self._ended.set()
            if not self.listening.done():
                self.listening.cancel()

    def not_ready(self) -> str:
        """Return why it should get no traffic, or ""."""
        if not self._admin:
            return "starting"
        if (answer := self.ask("/readyz")) is None:
            return "does not answer"
        status, body = answer
        return "" if status == 200 else str(json.loads(body)["reasons"].get("gateway", "not ready"))

    def ask(self, path: str) -> tuple[int, str] | None:
        """Return status and body of an answer of its admin listener, None if there is none."""
        connection = http.client.HTTPConnection(self._admin.removeprefix("http://"), timeout=ASK_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    async def drain(self) -> None:
        """Ask it to drain, and return when it is gone."""
        self._ending = True
        self._signal(signal.SIGTERM)
        if self._process is not None:
            await self._process.wait()

    def kill(self) -> None:
        """End it now."""
        self._ending = True
        self._signal(signal.SIGKILL)

    def _is_ending(self) -> bool:
        return self._ending

    async def _live(self) -> str:
        """Run it once, from start to end. Returns how it ended."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "mesh.cli.gateway_process",
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(framed(self._payload))
            try:
                async with asyncio.timeout(START_S):
                    self._heard(await process.stdout.readline())
            except TimeoutError:
                self._fail(MeshError(f"gateway process {self.name} did not listen within {START_S:g} s"))
                process.kill()
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                if process.returncode is None:
                    process.kill()
        return f"ended with code {code}"

    def _heard(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            self._fail(MeshError(f"gateway process {self.name} ended before it listened", hint="its log tells why"))
            return
        if "error" in told:
            self._fail((Conflict if told["conflict"] else MeshError)(told["error"], hint=told["hint"]))
            return
        self.http, self.grpc, self._admin = told["http"], told["grpc"], told["admin"]
        if not self.listening.done():
            self.listening.set_result(None)

    def _fail(self, error: MeshError) -> None:
        if not self.listening.done():
            self.listening.set_exception(error)
        else:
            log.error("gateway process %s: %s", self.name, error.message)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def reserved(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port for this process and its children, and listens to nobody.

    Raises Conflict if the port is somebody else's, InvalidConfig if the address is not this machine's.
    """
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        # Without sharing first: with it, the port of another program that shares its own would look free.
        with socket.create_server((bare, port), family=family) as probe:
            port = probe.getsockname()[1]
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((bare, port))
    except OSError as error:
        if isinstance(error, (PermissionError, socket.gaierror)):
            problem = Problem(
                "", f"cannot listen on {host}:{port}: {error.strerror}", "name an address of this machine"
            )
            raise InvalidConfig((problem,)) from error
        raise Conflict(f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another port") from error
    return held
