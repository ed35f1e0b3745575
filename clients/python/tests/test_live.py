"""Clients against a mesh that really runs: refusals, deadlines, errors, lost replicas, gateways that come and go."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from mesh_client import (
    Budget,
    DeadlineExceeded,
    HandlerFailed,
    InvalidRequest,
    MeshClientError,
    NotFound,
    Overloaded,
    Policy,
    ReplicaLost,
    Target,
    aio_channel,
    calling,
    channel,
    httpx_async_client,
    httpx_client,
    plain_channel,
    requests_session,
)
from mesh_client.clock import Clock

from tests.support.client_world import ClientWorld
from tests.support.mesh_process import FREE_PORTS, MeshProcess, eventually
from tests.support.native import ask, module

pytestmark = pytest.mark.timeout(120)
WAIT_S = 20.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ClientWorld:
    return ClientWorld(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def mesh(world: ClientWorld) -> Iterator[MeshProcess]:
    with MeshProcess("run", str(world.config), *FREE_PORTS) as running:
        yield running


def stub(opened: Any) -> Any:
    return opened.stub(module("native_pb2_grpc").ProbeStub)


class Caller:
    """One kind of client, called from threads. `idempotent` methods are Repeat and GET, others Unary and POST."""

    def __init__(self, mesh: MeshProcess, kind: str, target: Target, application: str = "probe") -> None:
        self.kind, self.application, self._stack = kind, application, ExitStack()
        self.grpc = "grpc" in kind
        self._runner = asyncio.Runner()
        metadata = (("application", application),)
        match kind:
            case "grpc":
                opened = channel(mesh.grpc, target=target, metadata=metadata)
                self._stack.enter_context(opened)
                self._stub = stub(opened)
            case "grpc aio":
                asynchronous = self._runner.run(self._made(aio_channel, mesh.grpc, target=target, metadata=metadata))
                self._stub = stub(asynchronous)
                self._stack.callback(lambda: self._runner.run(asynchronous.close()))
            case "requests":
                self._client: Any = self._stack.enter_context(requests_session(mesh.http, target=target))
                self._client.trust_env = False
            case "httpx":
                self._client = self._stack.enter_context(httpx_client(mesh.http, target=target))
            case "httpx async":
                self._client = self._runner.run(self._made(httpx_async_client, mesh.http, target=target))
                self._stack.callback(lambda: self._runner.run(self._client.aclose()))

    @staticmethod
    async def _made(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return make(*args, **kwargs)

    def __call__(self, word: str, *, idempotent: bool = False) -> str:
        if self.grpc:
            answer = (self._stub.Repeat if idempotent else self._stub.Unary)(ask(id=word))
            return str((self._wait(answer) if "aio" in self.kind else answer).text)
        url = f"/{self.application}?id={word}"
        answer = self._client.get(url) if idempotent else self._client.post(url)
        return str((self._wait(answer) if "async" in self.kind else answer).json()["ran"])

    def _wait(self, work: Any) -> Any:
        # Options of calls are of the block, not of when the runner was made.
        return self._runner.run(work, context=contextvars.copy_context())

    def close(self) -> None:
        self._stack.close()
        self._runner.close()


KINDS = ("grpc", "grpc aio", "requests", "httpx", "httpx async")


@contextmanager
def caller(mesh: MeshProcess, kind: str, target: Target | None = None, application: str = "probe") -> Iterator[Caller]:
    made = Caller(mesh, kind, target or Target(), application)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def busy(mesh: MeshProcess, world: ClientWorld, gate: str) -> Iterator[Callable[[], None]]:
    """Keep the only slot of `probe` taken for the block; the value frees it earlier."""
    with ThreadPoolExecutor(1) as pool, caller(mesh, "httpx") as hold:
        held = pool.submit(hold, f"gate-{gate}")
        eventually(lambda: f"gate-{gate}" in world.ran(), what=f"{gate} runs")

        def free() -> None:
            world.open(gate)
            held.result(WAIT_S)

        try:
            yield free
        finally:
            free()


class Freeing(Clock):
    """Before its first pause ends, the slot becomes free."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._free()
        super().sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.to_thread(self._free)
        await super().sleep_async(seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_shed_succeeds_after_the_pause(mesh: MeshProcess, world: ClientWorld, kind: str) -> None:
    gate, word = f"pause-{kind.replace(' ', '-')}", f"after-{kind.replace(' ', '-')}"
    with busy(mesh, world, gate) as free:
        clock = Freeing(free)
        with caller(mesh, kind, Target(Policy(attempts_max=5), clock)) as call:
            assert call(word) == word
        assert clock.pauses and min(clock.pauses) > 0
    assert world.ran().count(word) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_tells_when_to_come_back_and_of_which_request(
    mesh: MeshProcess, world: ClientWorld, kind: str
) -> None:
    with busy(mesh, world, f"told-{kind.replace(' ', '-')}"):
        target = Target(Policy(budget=Budget(ratio=0, burst=0, min_per_s=0)))
        with caller(mesh, kind, target) as call, pytest.raises(Overloaded) as raised:
            call("never")
        error = raised.value
        assert (error.reason, error.code, error.attempts) == ("OVERLOADED", "RESOURCE_EXHAUSTED", 1)
        assert error.request_id and error.retry_after_s and error.never_ran
        assert "dropped due to backpressure" in error.message
    assert "never" not in world.ran()


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_ends_the_request_at_the_replica(mesh: MeshProcess, world: ClientWorld, kind: str) -> None:
    word = f"gate-never-{kind.replace(' ', '-')}"
    with caller(mesh, kind) as call, calling(timeout_s=3), pytest.raises(DeadlineExceeded) as raised:
        call(word)
    assert raised.value.request_id
    eventually(lambda: f"cancelled {word}" in world.ran(), what="the replica hears of it")
    assert world.ran().count(word) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_errors_have_types(mesh: MeshProcess, kind: str) -> None:
    with caller(mesh, kind, application="plain") as call:
        with pytest.raises(HandlerFailed) as failed:
            call("raise")
        assert failed.value.reason == "HANDLER_FAILED" and failed.value.request_id
        assert "secret" not in str(failed.value)
        if call.grpc:
            with pytest.raises(NotFound, match="nothing of that name"):
                call("missing")
    with caller(mesh, kind, application="nowhere") as call, pytest.raises((NotFound, InvalidRequest)) as nowhere:
        call("x")
    assert nowhere.value.reason and nowhere.value.request_id


def test_streams(mesh: MeshProcess, world: ClientWorld) -> None:
    with busy(mesh, world, "streams") as free:
        target = Target(Policy(attempts_max=5), Freeing(free))
        with channel(mesh.grpc, target=target, metadata=[("application", "probe")]) as opened:
            answers = stub(opened).Many(ask(id="streamed", count=3))
            assert [answer.count for answer in answers] == [0, 1, 2]
            assert answers.code().name == "OK"
    assert world.ran().count("streamed") == 1
    with channel(mesh.grpc, metadata=[("application", "plain")]) as opened:
        probe = stub(opened)
        assert probe.Sum(iter([ask(count=2), ask(count=3)])).count == 5
        chat = probe.Chat(iter([ask(id="a"), ask(id="missing")]))
        assert next(chat).text == "a"
        with pytest.raises(NotFound) as raised:
            next(chat)
        assert raised.value.request_id and raised.value.attempts == 1
        assert probe.Unary.with_call(ask(id="b"))[1].code().name == "OK"
        assert probe.Unary.future(ask(id="c")).result(WAIT_S).text == "c"


async def test_streams_on_event_loops(mesh: MeshProcess) -> None:
    async with aio_channel(mesh.grpc, metadata=[("application", "plain")]) as opened:
        probe = stub(opened)
        assert [answer.count async for answer in probe.Many(ask(id="x", count=3))] == [0, 1, 2]
        assert (await probe.Sum(iter([ask(count=2), ask(count=3)]))).count == 5
        chat = probe.Chat(iter([ask(id="a"), ask(id="missing")]))
        assert (await anext(chat)).text == "a"
        with pytest.raises(NotFound):
            await anext(chat)
        with pytest.raises(NotFound):
            async for _ in probe.Many(ask(id="missing", count=1)):
                pass
        begun = probe.Many(ask(id="gate-begun", count=1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(begun)
        await begun.aclose()


def test_gRPC_itself_repeats_what_a_plain_channel_sheds(mesh: MeshProcess, world: ClientWorld) -> None:
    with busy(mesh, world, "plain") as free, plain_channel(mesh.grpc, policy=Policy(attempts_max=5)) as opened:
        probe = module("native_pb2_grpc").ProbeStub(opened)
        timer = threading.Timer(0.1, free)
        timer.start()
        answers = probe.Chat(iter([ask(id="x")]), metadata=[("application", "probe")], timeout=WAIT_S)
        assert [answer.text for answer in answers] == ["x"]
        timer.join()


@pytest.mark.long
def test_two_gateways_one_of_which_goes_and_comes_back(mesh: MeshProcess) -> None:
    """Requests go on without an error, over gRPC and HTTP, be they repeatable or not."""
    flags = ("--control", mesh.control, "--admin-port", "0", "--grpc-connection-age", "1")
    stopped, failed, counted = threading.Event(), [], {"grpc": 0, "httpx": 0, "requests": 0}
    with MeshProcess("gateway", *flags, "--port", "0", "--grpc-port", "0") as second, ExitStack() as stack:
        metadata = [("application", "plain")]
        opened = stack.enter_context(channel([mesh.grpc, second.grpc], metadata=metadata))
        client = stack.enter_context(httpx_client([mesh.http, second.http]))
        session = stack.enter_context(requests_session([mesh.http, second.http]))
        session.trust_env = False
        probe = stub(opened)

        def load(name: str, work: Callable[[], object]) -> None:
            while not stopped.is_set():
                try:
                    work()
                    counted[name] += 1
                    time.sleep(0.01)
                except MeshClientError as error:
                    failed.append(f"{name}: {error!r}")

        works: dict[str, Callable[[], object]] = {
            "grpc": lambda: probe.Unary(ask(id="x")),
            "httpx": lambda: client.post("/plain?id=x"),
            "requests": lambda: session.get("/plain?id=x"),
        }
        threads = [threading.Thread(target=load, args=item) for item in works.items()]
        for thread in threads:
            thread.start()
        try:
            _until_more(counted, 20)
            second.interrupt()
            t0 = time.monotonic()
            second.wait()
            print("WAITED", time.monotonic() - t0, second.stderr)
            _until_more(counted, 20)
            ports = ("--port", second.http.rpartition(":")[2], "--grpc-port", second.grpc.rpartition(":")[2])
            with MeshProcess("gateway", *flags, *ports):
                _until_more(counted, 50)
                stopped.set()
                for thread in threads:
                    thread.join(WAIT_S)
        finally:
            stopped.set()
            for thread in threads:
                thread.join(WAIT_S)
    assert failed == []


def test_only_what_may_run_twice_is_sent_again_when_its_replica_is_killed(
    mesh: MeshProcess, world: ClientWorld
) -> None:
    kind = "grpc"
    (world.directory / "mortal").touch()
    before = world.ran().count("lost")
    with caller(mesh, kind) as call:
        with pytest.raises(ReplicaLost) as raised:
            call("lost")
        assert raised.value.attempts == 1
        assert world.ran().count("lost") == before + 1

    def mend() -> None:
        (world.directory / "mortal").unlink(missing_ok=True)

    with caller(mesh, kind, Target(Policy(attempts_max=50), Freeing(mend))) as call:
        # Until the replica is back there is nobody, and nobody may wait.
        assert call("lost", idempotent=True) == "lost"
    mend()


def _until_more(counted: dict[str, int], more: int) -> None:
    wanted = {name: count + more for name, count in counted.items()}
    end = time.monotonic() + WAIT_S
    while any(counted[name] < count for name, count in wanted.items()):
        assert time.monotonic() < end, counted
        time.sleep(0.02)
