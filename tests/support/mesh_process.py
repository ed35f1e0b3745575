"""Runs real `meshctl` commands as processes for tests: start, ready addresses, signals, and proof that nothing stays.

Two ways: `meshctl(...)` runs a command to its end and returns what it said; `MeshProcess` starts one that serves
(run, start, controlplane, worker, gateway), waits for its ready line and ends it. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FREE_PORTS = ("--port", "0", "--grpc-port", "0", "--control-port", "0", "--admin-port", "0")
"""Flags of `run` and `start` that let the system choose every port."""
READY_SECONDS = 40.0
END_SECONDS = 30.0
_MARK = "MESH_TEST_PROCESS"
"""Environment variable by which all processes of one command are found again, orphans included."""


@dataclass(frozen=True)
class Result:
    """What a command that has ended said."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Return stdout as JSON."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Ready:
    """The ready line. Addresses that do not apply are empty; `http` and `admin` are URLs without a final slash."""

    ready: tuple[str, ...] = ()
    http: str = ""
    grpc: str = ""
    control: str = ""
    admin: str = ""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a command: this process's, without settings of mesh, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


def command(*args: str) -> list[str]:
    """Return the argument vector of a meshctl command."""
    return [sys.executable, "-m", "mesh.cli", *args]


def meshctl(
    *args: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = END_SECONDS, stdin: str = ""
) -> Result:
    """Run a command to its end. Past `timeout` seconds it is killed and the test fails."""
    done = subprocess.run(
        command(*args), cwd=cwd, env=environment(env), input=stdin, capture_output=True, text=True, timeout=timeout
    )
    return Result(done.returncode, done.stdout, done.stderr)


def eventually(condition: Callable[[], T | None], *, what: str, timeout: float = 30.0) -> T:
    """Return the first true value of `condition`, asked again and again; fail the test past `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)


class MeshProcess:
    """A serving meshctl command: `with MeshProcess("run", "slow:app", *FREE_PORTS, cwd=EXAMPLES) as mesh: ...`.

    `-o json` is added. On entry it waits until the command is ready; on exit it interrupts it, and in any case
    proves that no process of its tree lives and that nobody listens on its ports.
    """

    def __init__(self, *args: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        self._mark = uuid.uuid4().hex
        self._tree: dict[int, psutil.Process] = {}
        self._changed = threading.Condition()
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._open = {"stdout", "stderr"}
        started = command(*args, "-o", "json")
        setpriv = shutil.which("setpriv")
        if setpriv and threading.current_thread() is threading.main_thread():
            # It ends with the test run if that is killed; or rather with this thread of it.
            started = [setpriv, "--pdeathsig", "KILL", *started]
        self._process = subprocess.Popen(
            started,
            cwd=cwd,
            env={**environment(env), _MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.addresses = Ready()
        for name in ("stdout", "stderr"):
            threading.Thread(target=self._read, args=(name,), name=name, daemon=True).start()

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
            if error is not None:
                error.add_note(self.said())
            return
        try:
            if self._process.poll() is None:
                self.interrupt()
                self.wait()
            self.assert_gone()
        finally:
            self.kill()

    @property
    def stdout(self) -> str:
        """What it wrote to stdout so far."""
        return "".join(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(self._lines["stderr"])

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    @property
    def http(self) -> str:
        """URL of the HTTP listener, without a final slash."""
        return self.addresses.http

    @property
    def grpc(self) -> str:
        """host:port of the gRPC listener."""
        return self.addresses.grpc

    @property
    def control(self) -> str:
        """host:port of the control plane."""
        return self.addresses.control

    @property
    def admin(self) -> str:
        """URL of the admin listener, without a final slash."""
        return self.addresses.admin

    def wait_ready(self, timeout: float = READY_SECONDS) -> Ready:
        """Wait for the ready line and return its addresses."""
        line = self.wait_line("stdout", lambda line: line.startswith('{"ready"'), timeout=timeout)
        found = json.loads(line)
        self.addresses = Ready(**{**found, "ready": tuple(found["ready"])})
        self._look()
        return self.addresses

    def wait_line(self, stream: str, matches: Callable[[str], bool], *, timeout: float = READY_SECONDS) -> str:
        """Return the first line of "stdout" or "stderr" for which `matches` is true, now or later."""
        end = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                lines = self._lines[stream]
                for line in lines[seen:]:
                    if matches(line):
                        return line
                seen = len(lines)
                if stream not in self._open:
                    raise AssertionError(f"ended without the awaited line on {stream}\n{self.said()}")
                if (left := end - time.monotonic()) <= 0:
                    raise AssertionError(f"no awaited line on {stream} within {timeout:g} s\n{self.said()}")
                self._changed.wait(left)

    def meshctl(self, *args: str, cwd: Path = ROOT, timeout: float = END_SECONDS) -> Result:
        """Run a command against this process's control plane."""
        return meshctl(*args, cwd=cwd, env={"MESH_ADDRESS": self.control}, timeout=timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self._look()
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self.signal(signal.SIGINT)

    def kill_parent(self) -> None:
        """kill -9 of this process alone; its children must end by themselves."""
        self.signal(signal.SIGKILL)

    def wait(self, timeout: float = END_SECONDS) -> int:
        """Wait for the end and return the exit code (-9 after kill -9)."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout:g} s\n{self.said()}") from None

    def children(self) -> list[psutil.Process]:
        """Return the living processes that this one started, directly or not."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def assert_gone(self, timeout: float = 10.0) -> None:
        """Fail unless the process and all it started end within `timeout` seconds, and with them all they hold.

        Their ports are not asked: others may have them by then.
        """
        self.wait(timeout)
        eventually(lambda: not self.living(), what=f"all processes of the tree end: {self.living()}", timeout=timeout)

    def living(self) -> list[psutil.Process]:
        """Return the processes of this command's tree that live, orphans included."""
        found = {process.pid: process for process in _marked(self._mark)}
        found.update((pid, process) for pid, process in self._tree.items() if _lives(process))
        return list(found.values())

    def kill(self) -> None:
        """Kill what is left of the tree, each process by its id. Right at any time."""
        self._look()
        for process in self.living():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(END_SECONDS)

    def said(self) -> str:
        """Return all output, for the message of a failed test."""
        return f"--- stdout of {self.pid}\n{self.stdout}--- stderr of {self.pid}\n{self.stderr}---"

    def _look(self) -> None:
        """Note the processes and listening ports of the tree, to check later that they are gone."""
        if self._process.poll() is not None:
            return
        for process in (psutil.Process(self.pid), *self.children()):
            self._tree[process.pid] = process

    def _read(self, name: str) -> None:
        stream = getattr(self._process, name)
        for line in stream:
            with self._changed:
                self._lines[name].append(line)
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._open.discard(name)
            self._changed.notify_all()


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and _lives(process):
                yield process
        except psutil.Error:
            continue


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
