"""Limits on the data path: real clients, real gateways, real replica processes.

What is shed, what waits and in what order, and that nothing is left behind by those who give up.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.telemetry import REGISTRY
from mesh.v1 import ingress_service_pb2 as ingress
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.data_path import DataPath, burst, data_path, finish
from tests.support.gateways import Routed, until

DETAIL = "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2)."
KINDS = ["async_gated", "sync_gated"]
REPEATS = 10


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        yield path


def shed_count() -> float:
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        if metric.name == "mesh_requests_shed"
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_of_nine_at_once_four_are_served_and_five_are_shed(
    path: DataPath, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    await path.serve(kind)
    for repeat in range(REPEATS):
        before = shed_count()
        tasks = [asyncio.ensure_future(path.get(f"/?gate={repeat}&id={i}")) for i in range(9)]
        await until(partial(ended, tasks, 5), "five are answered at once")
        assert (path.gateways.dispatcher().in_flight, path.gateways.dispatcher().queued) == (2, 2)
        await path.until_started(4 * repeat + 2)
        path.open(str(repeat))
        answers = await asyncio.gather(*tasks)
        assert Counter(answer.status_code for answer in answers) == {200: 4, 503: 5}
        assert shed_count() - before == 5
        for answer in answers:
            if answer.status_code == 503:
                problem = answer.json()
                assert answer.headers["content-type"] == "application/problem+json"
                assert (problem["detail"], problem["code"]) == (DETAIL, "RESOURCE_EXHAUSTED")
                assert int(answer.headers["retry-after"]) >= 1
                assert problem["request_id"] == answer.headers["x-request-id"]
        await path.gateways.idle()
    assert max(map(int, path.events("most "))) == 2
    assert DETAIL in caplog.text
    await path.until_free()


def ended(tasks: Sequence[asyncio.Future[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) == count


async def handle(stub: Any, query: str, **options: Any) -> Any:
    return await stub.Handle(ingress.HandleRequest(path=f"/?{query}"), timeout=30, **options)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_over_grpc(path: DataPath, kind: str) -> None:
    await path.serve(kind)
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        stub = IngressServiceStub(channel)
        for repeat in range(REPEATS):
            before = shed_count()
            tasks = [asyncio.ensure_future(handle(stub, f"gate={repeat}&id={i}")) for i in range(9)]
            await until(partial(ended, tasks, 5), "five are answered at once")
            path.open(str(repeat))
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
            assert len(errors) == 5 and shed_count() - before == 5
            answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            assert [answer.status for answer in answers] == [200] * 4
            for error in errors:
                check_shed(error)
            await path.gateways.idle()
    await path.until_free()


def check_shed(error: grpc.aio.AioRpcError) -> None:
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, DETAIL)
    trailers: dict[str, Any] = {str(name): value for name, value in error.trailing_metadata()}
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    status = Status.FromString(trailers["grpc-status-details-bin"])
    found, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(found) and status.details[1].Unpack(retry)
    assert (found.reason, found.domain) == ("OVERLOADED", "mesh")
    assert found.metadata["request_id"] == trailers["x-request-id"]
    assert retry.retry_delay.ToMilliseconds() == int(trailers["grpc-retry-pushback-ms"])


@pytest.mark.parametrize("kind", ["brief", "sync_gated"])
async def test_two_gateways_never_pass_a_replicas_limit_and_serve_all_they_admit(tmp_path: Path, kind: str) -> None:
    async with data_path(tmp_path, gateways=2) as path:
        await path.serve(kind, queued=-1)
        for _ in range(REPEATS):
            assert await burst(path.gateways.addresses, 60, rounds=5) == {200: 300}
        assert path.events("most ") == ["1", "2"]
        await path.until_free()


async def test_two_gateways_with_bounded_lines_answer_everybody(tmp_path: Path) -> None:
    async with data_path(tmp_path, gateways=2) as path:
        await path.serve("brief", queued=2)
        seen: Counter[int] = Counter()
        for _ in range(REPEATS):
            seen += await burst(path.gateways.addresses, 40, rounds=2)
        assert set(seen) == {200, 503} and seen[200] >= 8 * REPEATS
        assert path.events("most ")[-1] == "2"
        await path.until_free()


async def test_requests_are_served_in_the_order_of_their_arrival(path: DataPath) -> None:
    await path.serve("async_gated", ongoing=1, queued=50)
    tasks = []
    for i in range(30):
        tasks.append(asyncio.ensure_future(path.get(f"/?id={i}&gate={'first' if i == 0 else ''}")))
        if i == 0:
            await path.until_running(1)
        else:
            await path.until_queued(i)
    for leaver in (3, 17):
        await finish(tasks[leaver])
    await path.until_queued(27)
    path.open("first")
    await asyncio.gather(*(task for i, task in enumerate(tasks) if i not in (3, 17)))
    assert path.events("start ") == [str(i) for i in range(30) if i not in (3, 17)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_deadline_that_passes_in_the_line_is_a_504_and_never_runs(path: DataPath, method: str) -> None:
    await path.serve("async_gated", ongoing=1)
    running = asyncio.ensure_future(path.get("/?id=first&gate=first"))
    await path.until_running(1)
    body = b"body" if method == "POST" else None
    late = await path.client.request(
        method, path.url("/?id=late"), content=body, headers={"x-request-timeout-seconds": "0.2"}
    )
    assert (late.status_code, late.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert path.gateways.dispatcher().queued == 0
    path.open("first")
    assert (await running).status_code == 200
    await path.until_free()
    assert path.events("start ") == ["first"]


async def test_a_deadline_that_passes_while_it_runs_is_a_504_and_cancels_an_async_handler(path: DataPath) -> None:
    await path.serve("async_gated", timeout_s=0.3)
    late = await path.get("/?id=late&gate=never")
    assert late.status_code == 504 and "0.3 s" in late.json()["detail"]
    await path.until_event("cancelled late")
    longer = await path.get("/?id=longer&gate=never", headers={"x-request-timeout-seconds": "1000"})
    assert longer.status_code == 504, "a client cannot ask for more than the deployment gives"
    await path.until_free()


async def test_a_grpc_deadline_ends_the_call(path: DataPath) -> None:
    await path.serve("async_gated")
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(ingress.HandleRequest(path="/?id=late&gate=never"), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await path.until_event("cancelled late")
    await path.until_free()


async def test_a_sync_handler_keeps_its_slot_until_its_thread_returns(path: DataPath) -> None:
    replica = await path.serve("sync_gated", ongoing=1)
    client = asyncio.ensure_future(path.get("/?id=left&gate=left"))
    await path.until_event("start left")
    await finish(client)
    waiting = asyncio.ensure_future(path.get("/?id=next"))
    await path.until_queued(1)
    assert await replica.ongoing() == 1
    path.open("left")
    assert (await waiting).status_code == 200
    assert path.events() == ["most 1", "start left", "end left", "start next", "end next"]


@pytest.mark.parametrize(("kind", "method"), [("async_gated", "GET"), ("async_gated", "POST"), ("sync_gated", "GET")])
async def test_clients_that_leave_take_nothing_with_them(path: DataPath, kind: str, method: str) -> None:
    replica = await path.serve(kind, ongoing=10, queued=20)
    await path.get("/?id=warm")
    gate = "left" if kind == "sync_gated" else "never"
    await leave(path, method, gate, 0)  # once before counting, for what is made once and kept
    if kind == "sync_gated":
        path.open(gate)
    await path.until_free()
    tasks, descriptors, own = len(asyncio.all_tasks()), replica.descriptors(), psutil.Process().num_fds()
    for round_number in range(1, 11):
        if kind == "sync_gated":
            (path.directory / f"open-{gate}").unlink(missing_ok=True)
        await leave(path, method, gate, round_number)
        if kind == "sync_gated":
            path.open(gate)
        await path.until_free()
    gc.collect()
    dispatcher = path.gateways.dispatcher()
    assert (dispatcher.in_flight, dispatcher.queued) == (0, 0)
    assert not path.gateways.gateway.pipeline._exchanges
    await until(lambda: len(asyncio.all_tasks()) <= tasks, f"no task is left: {asyncio.all_tasks()}")
    await until(lambda: psutil.Process().num_fds() <= own + 2, "no descriptor of the gateway is left")
    assert replica.descriptors() <= descriptors + 2
    assert not [event for event in path.events("start ") if "waits" in event], "who waited never ran"
    assert (await path.get("/?id=after")).status_code == 200
    assert "Traceback" not in replica.log


async def test_a_client_that_leaves_after_its_body_waited_for_a_slot_is_noticed(path: DataPath) -> None:
    await path.serve("async_gated", ongoing=1)
    first = asyncio.ensure_future(path.get("/?id=first&gate=go"))
    await path.until_event("start first")
    for i, body in enumerate((b"small", bytes(200_000))):
        second = asyncio.ensure_future(path.post(f"/?id=later-{i}&gate=never", content=body))
        await path.until_queued(1)
        path.open("go")
        await path.until_event(f"start later-{i}")
        await finish(second)
        await path.until_event(f"cancelled later-{i}")
        assert (await first).status_code == 200
        (path.directory / "open-go").unlink()
        first = asyncio.ensure_future(path.get(f"/?id=again-{i}&gate=go"))
        await path.until_event(f"start again-{i}")
    await finish(first)
    await path.until_free()


async def leave(path: DataPath, method: str, gate: str, number: int) -> None:
    """Let ten requests run and twenty wait, then hang up on all of them at once."""
    body = b"body" if method == "POST" else None

    def ask(name: str) -> asyncio.Task[httpx.Response]:
        url = path.url(f"/?gate={gate}&id={name}-{number}")
        return asyncio.ensure_future(path.client.request(method, url, content=body))

    running = [ask("runs") for _ in range(10)]
    await path.until_running(10)
    await until(lambda: path.events("start ").count(f"runs-{number}") == 10, "ten run")
    waiting = [ask("waits") for _ in range(20)]
    await path.until_queued(20)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await path.until_queued(0)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_grpc_clients_that_leave_take_nothing_with_them(path: DataPath) -> None:
    await path.serve("async_gated", ongoing=5, queued=10)
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        stub = IngressServiceStub(channel)
        for number in range(10):
            tasks = [asyncio.ensure_future(handle(stub, f"gate=never&id={number}")) for _ in range(15)]
            await path.until_queued(10)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await path.until_free()
    assert not path.gateways.gateway.pipeline._exchanges


def more_than(codes: Counter[int], count: int) -> bool:
    return codes[200] > count


async def test_who_waits_while_the_ingress_gets_another_name_is_served(path: DataPath) -> None:
    await path.serve("brief", ongoing=1, queued=-1)
    old = path.replica
    await path.gateways.publish(Routed(ongoing=1, queued=-1))
    asked = [asyncio.ensure_future(path.get()) for _ in range(3)]
    asked.append(asyncio.ensure_future(path.post(content=b"body")))
    await path.until_queued(4)
    endpoints = ((old.replica_id, old.address),)
    await path.gateways.publish(Routed(deployment="Renamed", ongoing=1, queued=0, endpoints=endpoints))
    assert [(await answer).status_code for answer in asked] == [200] * 4
    await path.until_free()


async def test_limits_change_under_load(path: DataPath) -> None:
    replica = await path.serve("brief", ongoing=1, queued=-1)
    endpoints = ((replica.replica_id, replica.address),)
    stop = asyncio.Event()
    codes: Counter[int] = Counter()

    async def load() -> None:
        while not stop.is_set():
            codes[(await path.get()).status_code] += 1

    clients = [asyncio.ensure_future(load()) for _ in range(12)]
    for limit in (4, 2, 6, 1, 3):
        served = codes[200]
        await replica.configure(max_ongoing_requests=limit)
        await path.gateways.publish(Routed(ongoing=limit, queued=-1, endpoints=endpoints))
        await until(partial(more_than, codes, served + 50), "requests are served")
    stop.set()
    await asyncio.gather(*clients)
    assert set(codes) == {200}
    assert 3 <= max(map(int, path.events("most "))) <= 6
    await path.until_free()


async def test_the_replicas_limit_holds_where_the_gateways_is_higher(path: DataPath) -> None:
    """The replica learns a lower limit first: it refuses, and what it refused is served nevertheless."""
    replica = await path.serve("brief", ongoing=8, queued=-1)
    await replica.configure(max_ongoing_requests=1)
    assert await burst(path.gateways.addresses, 50, rounds=4) == {200: 200}
    assert path.events("most ") == ["1"]
    await path.until_free()


async def test_nothing_is_logged_as_a_surprise(path: DataPath, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        replica = await path.serve("async_gated", ongoing=1, queued=1)
        tasks = [asyncio.ensure_future(path.get("/?gate=never")) for _ in range(4)]
        await until(lambda: sum(task.done() for task in tasks) == 2, "two are shed")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await path.until_free()
        assert await replica.stop() == 0
    assert "Traceback" not in caplog.text and "Traceback" not in replica.log
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
