"""The worker with real processes, against a control plane that is scripted by the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mesh.clock import SYSTEM
from mesh.errors import InvalidConfig
from mesh.liveness import SILENT_INTERVALS_MAX
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, ReplicaState, RuntimeEnv
from mesh.security import Security
from mesh.settings import WorkerSettings
from mesh.worker.server import Worker
from tests.support.frozen import freeze
from tests.support.scripted_control_plane import WAIT_SECONDS, ControlPlane, WorkerSession

READY, BACKOFF, STOPPED = ReplicaState.READY, ReplicaState.BACKOFF, ReplicaState.STOPPED
HELLO = """
import mesh

@mesh.deployment
class Hello:
    def __call__(self):
        return "Hello!"

app = Hello.bind()
"""


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no message tells."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


class Code:
    """A directory of user code, and what a test writes into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def config(self, source: str, *, attribute: str = "app", name: str = "served", **env: str) -> ApplicationConfig:
        (self.directory / f"{name}.py").write_text(source)
        environment = RuntimeEnv(working_dir=str(self.directory), env_vars=env)
        return ApplicationConfig(name=name, import_path=f"{name}:{attribute}", runtime_env=environment)

    def spec(
        self, source: str = HELLO, *, replica_id: str = "r1", name: str = "served", **settings: float | str
    ) -> ReplicaSpec:
        return ReplicaSpec(
            replica_id=replica_id,
            application=name,
            deployment="Hello",
            config=self.config(source, name=name),
            settings=DeploymentSettings(**settings),  # type: ignore[arg-type]
        )

    def said(self, name: str) -> list[str]:
        """Lines of a file that user code wrote."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / name).read_text().splitlines()
        return []


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@contextlib.asynccontextmanager
async def running(*control: str) -> AsyncIterator[Worker]:
    worker = Worker(WorkerSettings(worker_id="w1", control=control, drain_timeout_s=0.0), SYSTEM)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture
async def worker(control: ControlPlane) -> AsyncIterator[Worker]:
    async with running(control.address) as started:
        yield started


@pytest.fixture
async def session(control: ControlPlane, worker: Worker) -> WorkerSession:
    return await control.session()


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert not left


def gone(pid: int) -> bool:
    """Whether a process is no more, or only waits to be reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Registration.


async def test_it_says_who_it_is_and_is_ready_once_welcomed(control: ControlPlane) -> None:
    async with running(control.address) as worker:
        assert "control plane" in worker.not_ready()
        session = await control.session()
        await session.until(lambda: worker.not_ready() == "")
        assert session.hello.worker_id == "w1" == worker.worker_id
        assert session.hello.incarnation
        assert session.hello.resources.cpus >= 1
        assert session.hello.resources.memory_bytes > 0
        assert session.hello.host == "127.0.0.1"


async def test_a_silent_worker_sends_heartbeats(session: WorkerSession) -> None:
    await session.until(lambda: session.seen.count("heartbeat") >= 3)
    assert set(session.seen) == {"heartbeat"}


async def test_it_starts_without_a_control_plane_and_finds_it_later(control: ControlPlane) -> None:
    address = control.address
    await control.stop()
    async with running(address) as worker:
        assert worker.not_ready() != ""
        await control.start(address)
        await control.session()


async def test_it_tries_each_address_in_turn(control: ControlPlane) -> None:
    async with ControlPlane() as other:
        nobody = other.address
    async with running(nobody, control.address):
        await control.session()


async def test_it_follows_a_redirect_to_the_leader(control: ControlPlane) -> None:
    async with ControlPlane(redirect_to=control.address) as follower, running(follower.address):
        await control.session()
        assert len(follower.hellos) == 1


async def test_it_keeps_asking_while_nobody_leads(control: ControlPlane) -> None:
    async with ControlPlane(redirect_to="") as follower, running(follower.address):
        await until(lambda: len(follower.hellos) >= 3)
        follower.redirect_to = control.address
        await control.session()


async def test_it_follows_when_the_leader_changes(control: ControlPlane, session: WorkerSession) -> None:
    async with ControlPlane() as next_leader:
        control.redirect_to = ""
        await session.redirect(next_leader.address)
        session.hang_up()
        again = await next_leader.session()
        assert again.hello.incarnation == session.hello.incarnation
        await again.until(lambda: again.seen)


async def test_it_leaves_a_control_plane_that_has_gone_silent(control: ControlPlane, code: Code) -> None:
    """A frozen process keeps its connections; only its silence tells."""
    async with ControlPlane() as other, running(control.address, other.address):
        session = await control.session()
        await session.assign(1, code.spec())
        pid = (await session.until_state("r1", READY)).pid
        control.silent = True
        session = await other.session()
        assert (session.statuses["r1"].state, session.statuses["r1"].pid) == (READY, pid)


async def test_signs_of_life_keep_a_session(control: ControlPlane, session: WorkerSession) -> None:
    await session.until(lambda: session.seen.count("heartbeat") > 3 * SILENT_INTERVALS_MAX)
    assert len(control.hellos) == 1


def test_it_needs_an_address_to_connect_to() -> None:
    with pytest.raises(InvalidConfig, match="no address of a control plane"):
        Worker(WorkerSettings(control=()), SYSTEM)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]"])
def test_gateways_need_one_address_to_reach_replicas_at(host: str) -> None:
    trusted = Security(insecure=True)
    with pytest.raises(InvalidConfig, match="every address of this host") as raised:
        Worker(WorkerSettings(host=host, control=("127.0.0.1:1",), security=trusted), SYSTEM)
    assert "--host" in raised.value.problems[0].hint


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "2001:db8::1"])
async def test_an_address_that_is_not_here_ends_it_before_replicas_fail(host: str) -> None:
    trusted = Security(insecure=True)
    worker = Worker(WorkerSettings(host=host, control=("127.0.0.1:1",), security=trusted), SYSTEM)
    with pytest.raises(InvalidConfig, match=f"replicas cannot listen on {host}: ") as raised:
        await worker.start()
    assert "--host" in raised.value.problems[0].hint
    await worker.stop()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_replicas_listen_on_addresses_of_ipv6(host: str, code: Code) -> None:
    async with ControlPlane() as control:
        worker = Worker(WorkerSettings(worker_id="w1", host=host, control=(control.address,)), SYSTEM)
        await worker.start()
        try:
            session = await control.session()
            await session.assign(1, code.spec())
            status = await session.until_state("r1", READY)
            assert status.address.startswith("[::1]:")
            assert status.admin_address.startswith("[::1]:")
            await asyncio.to_thread(_fetch, f"http://{status.admin_address}/livez")
        finally:
            await worker.stop()


def _fetch(url: str) -> None:
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
        assert answer.status == 200


# Replicas.


async def test_a_replica_starts_serves_and_stops(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec())
    status = await session.until_state("r1", READY)
    assert status.address.startswith("127.0.0.1:")
    assert status.admin_address.startswith("127.0.0.1:")
    assert psutil.pid_exists(status.pid)
    assert (status.failed_starts, status.crashes, status.message) == (0, 0, "")
    await session.assign(2)
    stopped = await session.until_state("r1", STOPPED)
    assert "code 0" in stopped.message
    assert gone(status.pid)


async def test_the_same_assignment_again_changes_nothing(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec())
    first = await session.until_state("r1", READY)
    await session.assign(2, code.spec(), code.spec(replica_id="r2"))
    await session.until_state("r2", READY)
    assert session.statuses["r1"] == first


async def test_an_older_generation_is_ignored(session: WorkerSession, control: ControlPlane, code: Code) -> None:
    await session.assign(7, code.spec(), epoch=5)
    first = await session.until_state("r1", READY)
    await session.assign(7, epoch=5)
    await session.assign(99, epoch=4)
    session.hang_up()
    # What an older leader says after a reconnect is as old as before.
    again = await control.session()
    assert again.statuses["r1"] == first
    await again.assign(99, epoch=4)
    await again.assign(1, code.spec(), code.spec(replica_id="r2"), epoch=6)
    await again.until_state("r2", READY)
    assert again.statuses["r1"] == first


async def test_a_replica_that_is_killed_is_replaced_at_once_then_with_pauses(
    session: WorkerSession, code: Code
) -> None:
    await session.assign(1, code.spec())
    first = await session.until_state("r1", READY)
    os.kill(first.pid, 9)
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    second = await session.until_state("r1", READY)
    assert second.pid != first.pid
    assert ReplicaState.BACKOFF not in session.states["r1"]
    os.kill(second.pid, 9)
    paused = await session.until_state("r1", BACKOFF)
    assert "SIGKILL" in paused.message
    third = await session.until_state("r1", READY)
    assert third.crashes == 2


async def test_a_constructor_that_raises_is_told_with_its_place(session: WorkerSession, code: Code) -> None:
    source = HELLO.replace("    def __call__", "    def __init__(self):\n        1 / 0\n\n    def __call__")
    await session.assign(1, code.spec(source))
    status = await session.until_state("r1", BACKOFF)
    assert "ZeroDivisionError" in status.message
    assert "served.py" in status.message
    assert status.failed_starts == 1
    await session.until(lambda: session.statuses["r1"].failed_starts == 2)


async def test_native_code_that_dies_is_told_with_the_line_that_called_it(session: WorkerSession, code: Code) -> None:
    dies = """
    def __init__(self):
        import ctypes
        ctypes.string_at(0)
"""
    await session.assign(1, code.spec(HELLO.replace("class Hello:\n", f"class Hello:{dies}")))
    await session.until(lambda: "r1" in session.statuses and session.statuses["r1"].failed_starts > 0)
    failure = session.statuses["r1"].last_failure
    assert failure is not None
    assert failure.message == "killed by SIGSEGV: Segmentation fault (served.py:8)"
    assert failure.details.splitlines()[-1] == "Fatal Python error: Segmentation fault"
    assert 'served.py", line 8, in __init__' in failure.details
    assert "/mesh/worker/" not in failure.details


async def test_a_process_that_exits_at_import_is_told(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec("import os\nprint('so long')\nos._exit(3)\n"))
    status = await session.until_state("r1", BACKOFF)
    assert "exited with code 3" in status.message
    assert "so long" in status.message


async def test_a_start_that_hangs_is_killed(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec("import threading\nthreading.Event().wait()\n", startup_timeout_s=1.0))
    status = await session.until_state("r1", BACKOFF)
    assert "not ready within 1 s" in status.message
    assert status.failed_starts == 1


async def test_a_working_directory_that_is_missing_is_told(session: WorkerSession, code: Code, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    config = ApplicationConfig(name="a", import_path="a:app", runtime_env=RuntimeEnv(working_dir=missing))
    await session.assign(1, ReplicaSpec(replica_id="r1", application="a", deployment="Hello", config=config))
    status = await session.until_state("r1", BACKOFF)
    assert missing in status.message


async def test_a_failing_neighbour_leaves_a_replica_alone(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(), code.spec("raise OSError('no disk')", replica_id="bad", name="bad"))
    good = await session.until_state("r1", READY)
    assert "no disk" in (await session.until_state("bad", BACKOFF)).message
    assert session.statuses["r1"] == good


async def test_the_environment_and_the_directory_are_those_of_the_application(
    session: WorkerSession, code: Code
) -> None:
    source = HELLO + "\nimport os\nprint('at', os.getcwd(), os.environ['GREETING'], flush=True)\n"
    spec = code.spec(source)
    environment = RuntimeEnv(working_dir=str(code.directory), env_vars={"GREETING": "hi"})
    config = ApplicationConfig(name="served", import_path="served:app", runtime_env=environment)
    await session.assign(1, ReplicaSpec("r1", "served", "Hello", config=config, settings=spec.settings))
    await session.until_state("r1", READY)


async def test_secrets_are_read_where_the_worker_is(
    session: WorkerSession, code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = "import os\nassert os.environ['DB'] == 'hunter2'\n" + HELLO
    spec = code.spec(source)
    environment = replace(spec.config.runtime_env, env_vars_from_file={"DB": str(tmp_path / "db")})
    spec = replace(spec, config=replace(spec.config, runtime_env=environment))

    result = await session.build("b1", spec.config)
    assert result.failure.field == "runtime_env.env_vars.DB"
    assert result.failure.message == f"cannot read '{tmp_path}/db' on the worker: No such file or directory"
    await session.assign(1, spec)
    status = await session.until_state("r1", BACKOFF)
    assert status.failure is not None
    assert status.failure.field == "runtime_env.env_vars.DB"

    (tmp_path / "db").write_text("hunter2\n")
    assert not (await session.build("b2", spec.config)).HasField("failure")
    status = await session.until_state("r1", READY)
    assert "hunter2" not in f"{status}{result}{caplog.text}"


async def test_output_is_kept_logged_and_bounded(
    session: WorkerSession, worker: Worker, code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    source = HELLO + "\nimport sys\nprint('one')\nprint('two', file=sys.stderr)\nprint('x' * 100_000)\n"
    flood = "for i in range(50_000): print(i)\nprint('last')\n"
    with caplog.at_level("INFO", logger="mesh"):
        await session.assign(1, code.spec(source + flood))
        await session.until_state("r1", READY)
    await until(lambda: "last" in worker.output("r1"))
    assert len(worker.output("r1")) == 200
    records = [record for record in caplog.records if record.name == "mesh.replica"]
    one = next(record for record in records if record.getMessage() == "one")
    assert (vars(one)["deployment"], vars(one)["replica"]) == ("Hello", "r1")
    assert any(record.getMessage() == "two" for record in records)
    assert max(len(record.getMessage()) for record in records) < 9000
    assert any("left out" in record.getMessage() for record in records)


async def test_changed_settings_reach_the_running_replica(
    session: WorkerSession, code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    await session.assign(1, code.spec(max_ongoing_requests=2))
    first = await session.until_state("r1", READY)
    with caplog.at_level("INFO", logger="mesh.worker"):
        await session.assign(2, code.spec(max_ongoing_requests=5))
        await until(lambda: "took new settings" in caplog.text)
    assert session.statuses["r1"] == first


async def test_a_replica_that_hangs_fails_its_health_checks_and_is_replaced(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(health_check_period_s=0.1, health_check_timeout_s=0.5))
    first = await session.until_state("r1", READY)
    psutil.Process(first.pid).suspend()
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    assert "health checks" in session.statuses["r1"].message
    assert (await session.until_state("r1", READY)).pid != first.pid


async def test_a_replica_that_is_frozen_is_replaced(session: WorkerSession, code: Code) -> None:
    spec = code.spec(health_check_period_s=0.2, health_check_timeout_s=1.0)
    await session.assign(1, spec)
    first = await session.until_state("r1", READY)
    freeze(first.pid)
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    second = await session.until_state("r1", READY)
    assert second.pid != first.pid
    assert gone(first.pid)


async def test_a_replica_that_does_not_drain_is_killed(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(graceful_shutdown_timeout_s=0.1))
    first = await session.until_state("r1", READY)
    psutil.Process(first.pid).suspend()
    await session.assign(2)
    status = await session.until_state("r1", STOPPED)
    assert "had not drained" in status.message
    assert gone(first.pid)


CHILD = """
import subprocess
child = subprocess.Popen(["sleep", "1000"])
open("children", "a").write(f"{child.pid}\\n")
"""


async def test_what_a_replica_started_goes_with_it(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(HELLO + CHILD))
    first = await session.until_state("r1", READY)
    (child,) = code.said("children")
    os.kill(first.pid, 9)
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    await until(lambda: gone(int(child)))


async def test_restarts_leave_no_descriptor_thread_or_task(session: WorkerSession, code: Code) -> None:
    def held() -> tuple[int, int, int]:
        return psutil.Process().num_fds(), threading.active_count(), len(asyncio.all_tasks())

    def spec(replica_id: str) -> ReplicaSpec:
        # A health check opens a connection, at a time drawn at random.
        return code.spec(replica_id=replica_id, health_check_period_s=3600.0)

    async def restart(number: int) -> None:
        await session.assign(number, spec("r0"))
        await session.until_state("r1", STOPPED)
        await session.assign(number + 1, spec("r0"), spec("r1"))
        await session.until_state("r1", READY)

    await session.assign(1, spec("r0"), spec("r1"))
    await session.until_state("r0", READY)
    await session.until_state("r1", READY)
    await restart(2)  # what is made on first use (channels, pool threads) is there from here on
    before = held()
    restarts = range(4, 16, 2)
    for number in restarts:
        await restart(number)
    # grpc's core makes a poller's descriptors once more at times: that is no leak. One for each restart is.
    await until(lambda: all(now < then + len(restarts) for now, then in zip(held(), before, strict=True)))


# Control plane away.


async def test_replicas_serve_on_while_the_control_plane_is_away(
    control: ControlPlane, session: WorkerSession, worker: Worker, code: Code
) -> None:
    await session.assign(1, code.spec(), code.spec(replica_id="r2"))
    first = await session.until_state("r1", READY)
    second = await session.until_state("r2", READY)
    address = control.address
    await control.stop()
    os.kill(second.pid, 9)
    await until(lambda: worker.replicas[1].crashes == 1 and worker.replicas[1].state is READY)
    await control.start(address)
    again = await control.session()
    assert again.hello.incarnation == session.hello.incarnation
    assert again.statuses["r1"] == first
    assert again.statuses["r2"].crashes == 1


async def test_drain_stops_replicas_and_takes_leave(
    control: ControlPlane, session: WorkerSession, worker: Worker, code: Code
) -> None:
    await session.assign(
        1, code.spec(), code.spec("import threading; threading.Event().wait()", replica_id="r2", name="b")
    )
    await session.until_state("r1", READY)
    async with asyncio.timeout(WAIT_SECONDS):
        await worker.drain()
        await session.over.wait()
    assert session.seen[-1] == "leaving"
    assert {status.state for status in session.statuses.values()} == {STOPPED}
    assert worker.not_ready() == "draining"


async def test_stop_kills_at_once_and_may_be_repeated(control: ControlPlane, code: Code) -> None:
    async with running(control.address) as worker:
        session = await control.session()
        await session.assign(1, code.spec(HELLO + CHILD))
        status = await session.until_state("r1", READY)
        await worker.stop()
        assert gone(status.pid)
        assert gone(int(code.said("children")[0]))


# Builds.


async def test_a_build_reports_what_the_code_declares(session: WorkerSession, code: Code) -> None:
    source = HELLO.replace("@mesh.deployment", "@mesh.deployment(max_ongoing_requests=7)")
    result = await session.build("b1", code.config(source))
    assert not result.HasField("failure")
    (deployment,) = result.deployments
    assert deployment.ingress
    assert deployment.config.name == "Hello"
    assert deployment.config.max_ongoing_requests == 7
    assert not deployment.config.HasField("num_replicas")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind' (served.py:1)"),
        ("import os\nprint('bye')\nos._exit(4)\n", "exited with code 4; it printed last: bye -> the worker's log has"),
        ("raise SystemExit(2)\n", "SystemExit: 2"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "by SIGSEGV: Segmentation fault (served.py:2)"),
        ("apps = 1\n", "did you mean 'apps'?"),
    ],
)
async def test_a_build_that_fails_says_why(session: WorkerSession, code: Code, source: str, expected: str) -> None:
    result = await session.build("b1", code.config(source))
    assert expected in f"{result.failure.message} -> {result.failure.hint}"
    assert "\n" not in result.failure.message
    assert (result.failure.field, bool(result.failure.hint)) == ("import_path", True)
    assert not result.deployments


async def test_builds_that_hang_are_ended_and_hold_up_no_other(session: WorkerSession, code: Code) -> None:
    hang = code.config(CHILD + "child.wait()\n", name="hang")
    for build_id in ("b1", "b2"):
        await session.ask_build(build_id, hang, timeout_s=2.0)
    await session.ask_build("b3", code.config(HELLO))
    await session.until(lambda: len(session.results) == 3)
    assert not session.results["b3"].HasField("failure")
    assert "did not end within 2 s" in session.results["b1"].failure.message
    assert all(gone(int(pid)) for pid in code.said("children"))


async def test_a_build_ends_with_its_session(session: WorkerSession, control: ControlPlane, code: Code) -> None:
    await session.ask_build("b1", code.config(CHILD + "child.wait()\n"))
    await until(lambda: code.said("children"))
    session.hang_up()
    await control.session()
    await until(lambda: gone(int(code.said("children")[0])))


async def test_a_build_that_is_cancelled_ends_at_once_and_frees_its_place(session: WorkerSession, code: Code) -> None:
    hang = code.config(CHILD + "child.wait()\n", name="hang")
    for build_id in ("b1", "b2"):
        await session.ask_build(build_id, hang, timeout_s=600.0)
    await until(lambda: len(code.said("children")) == 2)
    await session.cancel_build("b1")
    await session.cancel_build("never asked for")
    assert not (await session.build("b3", code.config(HELLO))).HasField("failure")
    assert set(session.results) == {"b3"}
    await session.cancel_build("b2")
    await until(lambda: all(gone(int(pid)) for pid in code.said("children")))


async def test_threads_of_user_code_do_not_keep_a_build(session: WorkerSession, code: Code) -> None:
    threads = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    assert not (await session.build("b1", code.config(HELLO + threads))).HasField("failure")
