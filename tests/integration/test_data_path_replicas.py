"""Replicas that come, go and break, and snapshots that say so: what the requests see of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mesh.v1 import ingress_service_pb2 as ingress
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.data_path import DataPath, burst, data_path
from tests.support.frozen import freeze, thaw
from tests.support.gateways import Routed, snapshot, until
from tests.support.replicas import ReplicaProcess


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        yield path


def routed(*replicas: ReplicaProcess, **fields: Any) -> Routed:
    return Routed(endpoints=tuple((replica.replica_id, replica.address) for replica in replicas), **fields)


async def two_with_one_request_each(path: DataPath, method: str) -> tuple[list[ReplicaProcess], dict[int, Any]]:
    """Two replicas, a request running on each. Returns the replicas and the requests by pid."""
    replicas = [await path.replica_of("async_gated", ongoing=2) for _ in range(2)]
    await path.gateways.publish(routed(*replicas))
    tasks = [asyncio.ensure_future(path.client.request(method, path.url(f"/?id={i}&gate=go"))) for i in range(2)]
    await until(lambda: len(path.events("start ")) == 2, "both run")
    dispatcher = path.gateways.dispatcher()
    await until(
        lambda: all(call.accepted for link in dispatcher._links.values() for call in link._calls.values()),
        "both are accepted",
    )
    on: dict[int, Any] = {}
    for replica in replicas:
        (call,) = dispatcher._links[replica.replica_id]._calls.values()
        on[replica.pid] = tasks[call.order - 1]
    return replicas, on


async def test_a_killed_replicas_idempotent_request_is_repeated_unseen(path: DataPath) -> None:
    replicas, _ = await two_with_one_request_each(path, "GET")
    await replicas[0].kill()
    await until(lambda: len(path.events("start ")) == 3, "it runs again")
    path.open("go")
    answers = [await path.get("/?id=new"), await path.get("/?id=new")]
    assert {answer.json()["pid"] for answer in answers} == {replicas[1].pid}
    await path.gateways.idle()


async def test_a_killed_replicas_post_is_a_502_and_runs_once(path: DataPath) -> None:
    replicas, on = await two_with_one_request_each(path, "POST")
    await replicas[0].kill()
    lost = await on[replicas[0].pid]
    assert (lost.status_code, lost.headers["content-type"]) == (502, "application/problem+json")
    assert lost.json()["reason"] == "REPLICA_LOST" and lost.headers["x-request-id"]
    path.open("go")
    assert (await on[replicas[1].pid]).status_code == 200
    assert sorted(path.events("start ")) == ["0", "1"]
    await path.gateways.idle()


async def test_requests_that_a_frozen_replica_did_not_accept_go_elsewhere(path: DataPath) -> None:
    """Also those that must not run twice: it cannot have run them."""
    replicas = [await path.replica_of("async_gated", ongoing=10) for _ in range(2)]
    await path.gateways.publish(routed(*replicas, ongoing=10))
    await until(lambda: path.gateways.dispatcher().ready_replicas == 2, "both are connected")
    path.open("go")
    freeze(replicas[0].pid)
    posts = (path.client.post(path.url(f"/?id={i}&gate=go"), content=b"x") for i in range(8))
    answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.json()["pid"] for answer in answers} == {replicas[1].pid}
    assert path.gateways.dispatcher().ready_replicas == 1
    thaw(replicas[0].pid)
    await until(lambda: path.gateways.dispatcher().ready_replicas == 2, "it is connected again")
    assert len(path.events("start ")) == 8, "what it read late it did not run"
    await path.gateways.idle()


async def test_a_request_is_repeated_only_once(path: DataPath) -> None:
    replicas = [await path.replica_of("async_gated", ongoing=1) for _ in range(2)]
    await path.gateways.publish(routed(*replicas, ongoing=1))
    task = asyncio.ensure_future(path.get("/?id=1&gate=never"))
    for count in (1, 2):
        await until(lambda n=count: len(path.events("start ")) == n, f"it runs, {count}")  # type: ignore[misc]
        dispatcher = path.gateways.dispatcher()
        (busy,) = await busy_links(path)
        await until(lambda c=busy: all(call.accepted for call in c._calls.values()), "it is accepted")  # type: ignore[misc]
        await next(replica for replica in replicas if replica.replica_id == busy.replica_id).kill()
    answer = await task
    assert answer.status_code == 502 and dispatcher.in_flight == 0


async def busy_links(path: DataPath) -> list[Any]:
    links = path.gateways.dispatcher()._links
    await until(lambda: any(link._calls for link in links.values()), "a link is busy")
    return [link for link in links.values() if link._calls]


async def test_a_killed_replica_is_a_grpc_unavailable(path: DataPath) -> None:
    replica = await path.serve("async_gated")
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        call = IngressServiceStub(channel).Handle(ingress.HandleRequest(path="/?id=1&gate=never", body=b"x"))
        task = asyncio.ensure_future(call)
        await path.until_event("start 1")
        (link,) = await busy_links(path)
        await until(lambda: all(call.accepted for call in link._calls.values()), "it is accepted")
        await replica.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await task
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_upload_to_a_killed_replica_is_a_502(path: DataPath, caplog: pytest.LogCaptureFixture) -> None:
    replica = await path.serve("async_kinds")

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(50_000)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(path.post("/digest", content=body()))
    (link,) = await busy_links(path)
    await until(lambda: all(call.accepted for call in link._calls.values()), "it is accepted")
    await replica.kill()
    # The connection may be closed on a client that goes on sending before it has read the answer.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        assert (await task).status_code == 502
    await path.gateways.idle()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("method", "runs"), [("POST", 1), ("GET", 2)])
async def test_a_request_that_ends_its_replica_at_once_runs_no_more_often_than_it_may(
    path: DataPath, method: str, runs: int
) -> None:
    replicas = [await path.replica_of("async_kinds", ongoing=2) for _ in range(4)]
    await path.gateways.publish(routed(*replicas))
    answer = await path.client.request(method, path.url("/die"))
    assert (answer.status_code, answer.json()["reason"]) == (502, "REPLICA_LOST")
    assert len(path.events("died")) == runs
    assert (await path.get("/text")).status_code == 200


async def test_requests_that_no_replica_accepted_are_served_by_the_next_one(path: DataPath) -> None:
    """The only replica stops answering without closing; what was sent to it is sent to its successor."""
    first = await path.serve("async_gated", ongoing=4, queued=10)
    freeze(first.pid)
    tasks = [asyncio.ensure_future(path.post(f"/?id={i}")) for i in range(6)]
    await path.until_running(4)
    await path.until_queued(2)
    second = await path.replica_of("async_gated", ongoing=4)
    await first.kill()
    await path.gateways.publish(routed(second, ongoing=4, queued=10))
    answers = await asyncio.gather(*tasks)
    assert {answer.json()["pid"] for answer in answers} == {second.pid}
    assert sorted(path.events("start ")) == [str(i) for i in range(6)]


async def test_requests_wait_for_the_first_replica_even_through_the_build(path: DataPath) -> None:
    await path.gateways.publish(Routed(built=False))
    tasks = [asyncio.ensure_future(path.get(f"/?id={i}")) for i in range(3)]
    await path.until_queued(3)
    await path.gateways.publish(Routed(ongoing=1, queued=5))
    assert path.gateways.dispatcher().queued == 3
    replica = await path.replica_of("async_gated", ongoing=1)
    await path.gateways.publish(routed(replica, ongoing=1, queued=5))
    assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3
    assert path.events("start ") == ["0", "1", "2"]


async def test_the_limit_of_the_line_holds_while_there_is_no_replica(path: DataPath) -> None:
    await path.gateways.publish(Routed(queued=2))
    waiting = [asyncio.ensure_future(path.get(f"/?id={i}")) for i in range(2)]
    await path.until_queued(2)
    shed = await path.get("/")
    assert shed.status_code == 503 and "max_queued_requests=2" in shed.json()["detail"]
    await path.gateways.publish(Routed(queued=2, failure="no module named 'slow'"))
    for task in waiting:
        answer = await task
        assert (answer.status_code, answer.json()["reason"]) == (503, "NO_REPLICA")
        assert "no module named 'slow'" in answer.json()["detail"]


@pytest.mark.parametrize("built", [True, False])
async def test_a_failed_deploy_is_a_503_at_once(path: DataPath, built: bool) -> None:
    await path.gateways.publish(Routed(failure="the constructor raised", built=built))
    answer = await path.get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "the constructor raised" in answer.json()["detail"] and "retry-after" not in answer.headers
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(ingress.HandleRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_failure_does_not_stop_what_still_serves(path: DataPath) -> None:
    replica = await path.serve("async_gated")
    await path.gateways.publish(routed(replica, failure="the next revision failed"))
    assert (await path.get("/?id=1")).status_code == 200


async def test_older_snapshots_change_nothing(path: DataPath) -> None:
    replica = await path.serve("async_gated")
    pipeline = path.gateways.gateway.pipeline
    now = pipeline.generation
    assert not pipeline.apply(snapshot(now.number - 1, []))
    assert not pipeline.apply(snapshot(now.number + 100, [], epoch=now.epoch - 1))
    assert pipeline.generation == now and (await path.get("/?id=1")).status_code == 200
    assert pipeline.apply(snapshot(now.number, [routed(replica)])), "the same again is no harm"
    assert pipeline.apply(snapshot(0, [routed(replica)], epoch=now.epoch + 1)), "a new leader counts afresh"
    assert (await path.get("/?id=2")).status_code == 200


async def test_a_removed_application_finishes_what_runs_and_refuses_who_waits(path: DataPath) -> None:
    replica = await path.serve("async_gated", ongoing=1)
    running = asyncio.ensure_future(path.get("/?id=runs&gate=go"))
    await path.until_event("start runs")
    waiting = asyncio.ensure_future(path.get("/?id=waits"))
    await path.until_queued(1)
    await path.gateways.publish()
    gone = await waiting
    assert (gone.status_code, gone.json()["reason"]) == (503, "NO_REPLICA")
    assert (await path.get("/")).status_code == 404
    replica.terminate()
    path.open("go")
    assert (await running).status_code == 200
    assert await replica.ended() == 0
    await until(lambda: not path.gateways.gateway.pipeline.tasks, "the dispatcher is buried")


async def test_an_application_that_comes_back_while_the_old_one_ends(path: DataPath) -> None:
    replica = await path.serve("async_gated", ongoing=2)
    running = asyncio.ensure_future(path.get("/?id=old&gate=go"))
    await path.until_event("start old")
    await path.gateways.publish()
    await path.gateways.publish(routed(replica))
    assert (await path.get("/?id=new")).status_code == 200
    path.open("go")
    assert (await running).status_code == 200
    await until(lambda: not path.gateways.gateway.pipeline.tasks, "the old dispatcher is buried")
    assert "mesh_requests_in_flight{" in metrics(), "its gauges did not go with the old one"


def metrics() -> str:
    from prometheus_client import generate_latest

    from mesh.telemetry import REGISTRY

    return generate_latest(REGISTRY).decode()


async def test_replicas_that_are_replaced_under_load_fail_no_request(path: DataPath) -> None:
    """What a rollout does: the new one joins, the old one leaves the snapshot and drains."""
    current = await path.serve("brief", ongoing=3, queued=-1)
    stop = asyncio.Event()
    codes: Counter[int] = Counter()

    async def load() -> None:
        while not stop.is_set():
            codes[(await path.post()).status_code] += 1

    clients = [asyncio.ensure_future(load()) for _ in range(8)]
    for _ in range(3):
        following = await path.replica_of("brief", ongoing=3)
        await path.gateways.publish(routed(current, following, ongoing=3, queued=-1))
        await path.gateways.publish(routed(following, ongoing=3, queued=-1))
        assert await current.stop() == 0
        assert "Traceback" not in current.log
        current = following
    stop.set()
    await asyncio.gather(*clients)
    assert set(codes) == {200}
    assert len(path.gateways.dispatcher()._links.running) == 1, "links to those that are gone are gone"


async def test_a_replica_that_drains_before_the_gateway_knows_fails_no_request(path: DataPath) -> None:
    replicas = [await path.replica_of("brief", ongoing=3) for _ in range(2)]
    await path.gateways.publish(routed(*replicas, ongoing=3, queued=-1))
    load = asyncio.ensure_future(burst(path.gateways.addresses, 30, rounds=30))
    await path.until_running(6)
    assert await replicas[0].stop() == 0
    assert await load == {200: 900}
    await path.gateways.idle()


async def test_a_gateway_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    with caplog.at_level(logging.DEBUG):
        async with data_path(tmp_path, drain_timeout_s=0.2) as path:
            replica = await path.serve("async_gated", ongoing=2)
            clients = [asyncio.ensure_future(path.get(f"/?id={i}&gate=never")) for i in range(2)]
            clients += [asyncio.ensure_future(path.post(f"/?id={i}&gate=never", content=b"x")) for i in range(2)]
            await path.until_queued(2)
            await path.gateways.gateway.drain()
            await path.gateways.gateway.stop()
            answers = await asyncio.gather(*clients)
            assert [answer.status_code for answer in answers] == [503] * 4
            await until(lambda: len(path.events("cancelled ")) == 2, "the replica cancels what ran")
            assert path.gateways.gateway.pipeline._exchanges == 0
            assert await replica.ongoing() == 0
            await path.gateways.gateway.stop()
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()}, f"{asyncio.all_tasks() - before}")
    assert "Traceback" not in caplog.text and "Traceback" not in replica.log
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
