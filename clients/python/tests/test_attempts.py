"""How often each kind of client sends a request to servers that refuse, and what it tells of it. No time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from mesh_client import (
    Budget,
    DeadlineExceeded,
    Hedge,
    MeshClientError,
    Overloaded,
    Policy,
    ReplicaLost,
    Target,
    Unavailable,
    aio_channel,
    calling,
    channel,
    httpx_async_client,
    httpx_client,
    requests_session,
)

from tests.support.refusing import MANY, UNARY, RefusingGrpc, RefusingHttp, Script, StillClock

Ask = Callable[[bytes], Awaitable[bytes]]
"""Sends a request that must not run twice, unless the policy or the block of code says otherwise."""
REQUESTS = 200


async def _in_thread(work: Callable[[bytes], bytes], body: bytes) -> bytes:
    return await asyncio.to_thread(work, body)


@asynccontextmanager
async def _grpc(address: str, target: Target) -> AsyncIterator[Ask]:
    with channel(address, target=target) as opened:
        unary = opened.unary_unary(UNARY)
        yield lambda body: _in_thread(unary, body)


@asynccontextmanager
async def _grpc_stream(address: str, target: Target) -> AsyncIterator[Ask]:
    with channel(address, target=target) as opened:
        many = opened.unary_stream(MANY)
        yield lambda body: _in_thread(lambda each: b"".join(many(each)).replace(b"0", b"", 1)[: len(each)], body)


@asynccontextmanager
async def _grpc_aio(address: str, target: Target) -> AsyncIterator[Ask]:
    async with aio_channel(address, target=target) as opened:
        yield opened.unary_unary(UNARY)


@asynccontextmanager
async def _grpc_aio_stream(address: str, target: Target) -> AsyncIterator[Ask]:
    async with aio_channel(address, target=target) as opened:
        many = opened.unary_stream(MANY)

        async def ask(body: bytes) -> bytes:
            answers = [answer async for answer in many(body)]
            assert answers == [body + b"0", body + b"1", body + b"2"]
            return body

        yield ask


@asynccontextmanager
async def _requests(address: str, target: Target) -> AsyncIterator[Ask]:
    with requests_session(address, target=target) as session:
        session.trust_env = False
        yield lambda body: _in_thread(lambda each: session.post("/path?a=b", data=each).content, body)


@asynccontextmanager
async def _httpx(address: str, target: Target) -> AsyncIterator[Ask]:
    with httpx_client(address, target=target) as client:
        yield lambda body: _in_thread(lambda each: client.post("/path?a=b", content=each).content, body)


@asynccontextmanager
async def _httpx_async(address: str, target: Target) -> AsyncIterator[Ask]:
    async with httpx_async_client(address, target=target) as client:

        async def ask(body: bytes) -> bytes:
            response = await client.post("/path?a=b", content=body)
            return response.content

        yield ask


KINDS: dict[str, tuple[Any, Any]] = {
    "grpc": (RefusingGrpc, _grpc),
    "grpc stream": (RefusingGrpc, _grpc_stream),
    "grpc aio": (RefusingGrpc, _grpc_aio),
    "grpc aio stream": (RefusingGrpc, _grpc_aio_stream),
    "requests": (RefusingHttp, _requests),
    "httpx": (RefusingHttp, _httpx),
    "httpx async": (RefusingHttp, _httpx_async),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return KINDS[request.param]


class World:
    """A server with a script and a client of one kind."""

    def __init__(self, server: Any, ask: Ask, target: Target, clock: StillClock) -> None:
        self.server, self.ask, self.target, self.clock = server, ask, target, clock


@asynccontextmanager
async def world(kind: tuple[Any, Any], script: Script, **policy: Any) -> AsyncIterator[World]:
    clock = StillClock()
    target = Target(Policy(**policy), clock)
    with kind[0](script) as server:
        async with kind[1](server.address, target) as ask:
            yield World(server, ask, target, clock)


async def test_under_overload_attempts_stay_near_requests(kind: tuple[Any, Any]) -> None:
    async with world(kind, lambda _: "shed") as at:
        for _ in range(REQUESTS):
            with pytest.raises(Overloaded):
                await at.ask(b"x")
        assert REQUESTS < at.server.attempts <= 1.2 * REQUESTS
        seen = at.target.statistics()
        assert (seen.requests, seen.attempts) == (REQUESTS, at.server.attempts)


async def test_what_was_shed_is_sent_again_after_the_pause_that_was_asked_for(kind: tuple[Any, Any]) -> None:
    async with world(kind, lambda number: "ok" if number else "shed") as at:
        assert await at.ask(b"x") == b"x"
        assert at.server.attempts == 2
        # Over HTTP servers ask in whole seconds.
        asked = 0.05 if kind[0] is RefusingGrpc else 1.0
        assert at.clock.pauses == [pytest.approx(asked * 1.05)]
        first, second = at.server.seen
        assert first["x-request-id"] == second["x-request-id"] != ""


async def test_without_a_budget_a_refusal_is_told_at_once(kind: tuple[Any, Any]) -> None:
    async with world(kind, lambda _: "shed", budget=Budget(ratio=0, burst=0, min_per_s=0)) as at:
        with pytest.raises(Overloaded) as raised:
            await at.ask(b"x")
        error = raised.value
        assert (error.reason, error.request_id, error.attempts) == ("OVERLOADED", "told", 1)
        assert error.retry_after_s and at.server.attempts == 1 and at.clock.pauses == []


async def test_what_may_have_run_is_sent_again_only_if_it_may_run_twice(kind: tuple[Any, Any]) -> None:
    async with world(kind, lambda number: "ok" if number % 2 else "lost") as at:
        with pytest.raises(ReplicaLost):
            await at.ask(b"x")
        assert at.server.attempts == 1
        await at.ask(b"x")
        with calling(idempotent=True):
            assert await at.ask(b"x") == b"x"
        assert at.server.attempts == 4


async def test_the_time_for_all_attempts_is_over_in_the_middle(kind: tuple[Any, Any]) -> None:
    async with world(kind, lambda _: "hang") as at:
        with calling(timeout_s=3, request_id="mine"), pytest.raises(DeadlineExceeded) as raised:
            await at.ask(b"x")
        assert raised.value.request_id == "mine"
        assert at.server.attempts == 1
        assert at.server.seen[0]["x-request-id"] == "mine"
        if kind[0] is RefusingHttp:
            assert at.server.seen[0]["x-request-timeout-seconds"] == "3.000"


async def test_a_pause_that_would_take_too_long_is_not_made(kind: tuple[Any, Any]) -> None:
    asked = 0.05 if kind[0] is RefusingGrpc else 1.0
    async with world(kind, lambda _: "shed", pushback_max_s=asked * 0.9) as at:
        with pytest.raises(Overloaded):
            await at.ask(b"x")
        assert at.server.attempts == 1 and at.clock.pauses == []


async def test_nobody_listens(kind: tuple[Any, Any]) -> None:
    server = kind[0](lambda _: "ok")
    with server:
        address = server.address
    target = Target(Policy(), clock := StillClock())
    async with kind[1](address, target) as ask:
        with pytest.raises(Unavailable) as raised:
            await ask(b"x")
        assert raised.value.never_ran
        assert raised.value.attempts == 3 and len(clock.pauses) == 2


async def test_who_comes_up_meanwhile_is_found(kind: tuple[Any, Any]) -> None:
    with kind[0](lambda _: "ok") as server:
        address = server.address
    port = int(address.rpartition(":")[2])
    target = Target(Policy(timeout_s=None))
    async with kind[1](address, target) as ask:
        with pytest.raises(Unavailable):
            await ask(b"x")
        with kind[0](lambda _: "ok", port=port):
            async with asyncio.timeout(20):
                while True:
                    # gRPC itself pauses between its attempts to connect.
                    try:
                        assert await ask(b"x") == b"x"
                        break
                    except Unavailable:
                        pass


async def test_several_addresses_are_used_in_turn_and_a_dead_one_costs_nothing(kind: tuple[Any, Any]) -> None:
    with kind[0](lambda _: "ok") as dead:
        addresses = [dead.address]
    with kind[0](lambda _: "ok") as first, kind[0](lambda _: "ok") as second:
        addresses += [first.address, second.address]
        target = Target(Policy(timeout_s=None))
        async with kind[1](addresses, target) as ask:
            asked = 0
            # Over gRPC, until both connections stand.
            while asked < 20 or not (first.attempts and second.attempts):
                assert await ask(b"x") == b"x"
                asked += 1
            assert first.attempts + second.attempts == asked
            assert target.statistics().attempts == asked


async def test_a_request_that_is_called_off_ends(kind: tuple[Any, Any]) -> None:
    if "async" not in str(kind[1]) and "aio" not in str(kind[1]):
        return  # threads cannot be called off
    async with world(kind, lambda _: "hang") as at:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await at.ask(b"x")


@pytest.mark.parametrize("name", ["grpc", "grpc aio", "httpx async"])
async def test_a_second_attempt_goes_beside_a_slow_one(name: str) -> None:
    hedge = Hedge(after_s=0.01)
    async with world(KINDS[name], lambda number: "ok" if number % 2 else "hang", hedge=hedge) as at:
        with calling(idempotent=True):
            assert await at.ask(b"x") == b"x"
        assert at.server.attempts == 2
        assert at.target.statistics().attempts == 2


@pytest.mark.parametrize("name", ["grpc", "grpc aio", "httpx async"])
@pytest.mark.parametrize("idempotent", [True, False])
async def test_no_second_attempt_without_budget_or_where_it_may_do_harm(name: str, idempotent: bool) -> None:
    budget = Budget(ratio=0, burst=0, min_per_s=0) if idempotent else Budget()
    async with world(KINDS[name], lambda _: "hang", hedge=Hedge(after_s=0.01), budget=budget) as at:
        with calling(idempotent=idempotent, timeout_s=3), pytest.raises(DeadlineExceeded):
            await at.ask(b"x")
        assert at.server.attempts == 1


@pytest.mark.parametrize("name", ["grpc", "grpc aio", "httpx async"])
async def test_a_hedge_that_fails_does_not_count(name: str) -> None:
    def script(number: int) -> str:
        return "shed" if number else "hang"

    async with world(KINDS[name], script, hedge=Hedge(after_s=0.01), attempts_max=2) as at:
        with calling(idempotent=True):
            asking = asyncio.ensure_future(at.ask(b"x"))
            async with asyncio.timeout(10):
                while at.server.attempts < 2:
                    await asyncio.sleep(0.01)
            at.server.released.set()
            assert await asking == b"x"


async def test_hedges_are_bounded_by_the_budget() -> None:
    # Every answer is slower than the hedge waits: without a budget each request would be sent twice.
    async with world(KINDS["grpc aio"], lambda _: "ok", hedge=Hedge(after_s=0.0, min_s=0.0)) as at:
        with calling(idempotent=True):
            for _ in range(REQUESTS):
                await at.ask(b"x")
        assert at.target.statistics().attempts <= 1.2 * REQUESTS


async def test_answers_that_failed_are_left_as_they_are_if_so_wanted() -> None:
    with RefusingHttp(lambda _: "shed") as server:
        budget = Policy(budget=Budget(ratio=0, burst=1, min_per_s=0))

        def target() -> Target:
            return Target(budget, StillClock())

        with requests_session(server.address, target=target(), raise_errors=False) as session:
            session.trust_env = False
            answers: list[Any] = [session.get("/"), session.get("/", stream=True)]
        with httpx_client(server.address, target=target(), raise_errors=False) as client:
            answers += [client.get("/"), client.get("/")]
        async with httpx_async_client(server.address, target=target(), raise_errors=False) as asynchronous:
            answers += [await asynchronous.get("/"), await asynchronous.get("/")]
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["reason"] == "OVERLOADED"
        assert server.attempts == 9


def test_errors_over_http_have_their_answer() -> None:
    with RefusingHttp(lambda _: "lost") as server, httpx_client(server.address) as client:
        with pytest.raises(ReplicaLost) as raised:
            client.post("/")
        assert raised.value.response.json()["reason"] == "REPLICA_LOST"


def test_a_body_that_is_read_as_it_is_sent_goes_once() -> None:
    def parts() -> Any:
        yield b"x"

    for kind in (requests_session, httpx_client):
        with RefusingHttp(lambda _: "shed") as server, kind(server.address) as client:
            content: dict[str, Any] = {"data": parts()} if kind is requests_session else {"content": parts()}
            with pytest.raises(Overloaded):
                client.put("/", **content)
            assert server.attempts == 1


def test_who_asks_not_to_come_back_is_left_alone() -> None:
    with RefusingGrpc(lambda _: "never") as server, channel(server.address) as opened:
        with pytest.raises(Overloaded):
            opened.unary_unary(UNARY)(b"x")
        assert server.attempts == 1


def test_a_timeout_of_the_call_itself_goes_first() -> None:
    with RefusingGrpc(lambda _: "hang") as server, channel(server.address) as opened, calling(timeout_s=50):
        with pytest.raises(DeadlineExceeded) as raised:
            opened.unary_unary(UNARY)(b"x", timeout=0.1)
        assert isinstance(raised.value.__cause__, grpc.RpcError)
    with RefusingHttp(lambda _: "hang") as http:
        with httpx_client(http.address) as client, calling(timeout_s=50), pytest.raises(DeadlineExceeded):
            client.get("/", timeout=0.1)
        with requests_session(http.address) as session, calling(timeout_s=50):
            session.trust_env = False
            for timeout in (0.1, (1.0, 0.1)):
                with pytest.raises(DeadlineExceeded):
                    session.post("/", timeout=timeout)


async def test_reading_an_answer_is_within_the_time_of_its_request() -> None:
    with RefusingHttp(lambda _: "drip") as server:
        with httpx_client(server.address) as client, pytest.raises(DeadlineExceeded) as raised:
            client.post("/", timeout=2)
        assert raised.value.request_id and raised.value.attempts == 1
        with requests_session(server.address) as session:
            session.trust_env = False
            with pytest.raises(DeadlineExceeded) as raised:
                session.post("/", timeout=2)
        assert raised.value.request_id
        async with httpx_async_client(server.address) as asynchronous:
            with pytest.raises(DeadlineExceeded) as raised:
                await asynchronous.post("/", timeout=2)
        assert raised.value.request_id and server.attempts == 3


async def test_a_stream_lasts_as_long_as_it_goes_on() -> None:
    policy, more = Policy(timeout_s=2), 250  # that takes longer
    with RefusingHttp(lambda _: "drip") as server:
        with httpx_client(server.address, policy=policy) as client, client.stream("GET", "/") as answer:
            assert sum(1 for _, _ in zip(range(more), answer.iter_bytes(), strict=False)) == more
        async with (
            httpx_async_client(server.address, policy=policy) as asynchronous,
            asynchronous.stream("GET", "/") as streamed,
        ):
            parts = streamed.aiter_bytes()
            assert [await anext(parts) for _ in range(more)] == [b"x"] * more
        with requests_session(server.address, policy=policy) as session:
            session.trust_env = False
            with session.get("/", stream=True) as answered:
                assert sum(1 for _, _ in zip(range(more), answered.iter_content(1), strict=False)) == more


def test_an_attempt_has_a_limit_of_its_own() -> None:
    policy = Policy(attempt_timeout_s=3, timeout_s=30)
    with (
        RefusingGrpc(lambda number: "ok" if number else "hang") as server,
        channel(server.address, policy=policy) as at,
    ):
        with calling(idempotent=True):
            assert at.unary_unary(UNARY)(b"x") == b"x"
        assert server.attempts == 2


def test_requests_to_other_hosts_are_left_alone() -> None:
    with RefusingHttp(lambda _: "shed") as other, httpx_client("http://127.0.0.1:9") as client:
        response: httpx.Response = client.get(other.address)
        assert response.status_code == 503 and other.attempts == 1
        assert "x-request-timeout-seconds" not in other.seen[0]


def test_blocks_of_options_nest() -> None:
    from mesh_client.call_options import current

    with calling(timeout_s=5, request_id="a"):
        with calling(idempotent=True, timeout_s=2):
            now = current()
            assert (now.timeout_s, now.idempotent, now.request_id) == (2, True, "a")
        assert current().timeout_s == 5
    assert current().timeout_s is None
    with pytest.raises(ValueError), calling(timeout_s=0):
        pass


def test_all_errors_have_one_base() -> None:
    assert issubclass(ReplicaLost, Unavailable) and issubclass(Overloaded, MeshClientError)
