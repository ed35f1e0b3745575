"""A child with room for one and one that waits, called by parents of every kind: exactly two served, one refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tests.support.gateways import until
from tests.support.graphs import Graph, graphs
from tests.support.native import ask, stub_of, trailers

HTTP = {
    "plain": ("graph_code", "plain", "/", "worked for plain"),
    "sync": ("graph_code", "sync", "/", "worked for sync"),
    "asgi, async": ("graph_asgi", "asgi", "/async", '"worked for asgi async"'),
    "asgi, sync": ("graph_asgi", "asgi", "/sync", '"worked for asgi sync"'),
}
DETAIL = (
    "deployment 'Child' of application 'default': Request dropped due to backpressure "
    "(num_queued_requests=1, max_queued_requests=1)."
)


@pytest.fixture
async def graph(tmp_path: Path) -> AsyncIterator[Graph]:
    async with graphs(tmp_path) as made:
        yield made


async def three(graph: Graph, path: str) -> list[httpx.Response]:
    """Send three at once; open the child's gate when one of them has been answered."""
    assert (await graph.get("/ready")).status_code == 200, "the pipe to the child stands"
    sent = [asyncio.ensure_future(graph.get(path)) for _ in range(3)]
    await until(partial(_some_done, sent), "one is answered")
    graph.open("go")
    return await asyncio.gather(*sent)


def _some_done(sent: Sequence[asyncio.Future[httpx.Response]]) -> bool:
    return any(each.done() for each in sent)


@pytest.mark.parametrize("case", HTTP)
async def test_two_of_three_are_served_and_the_third_is_told_whose_limit_it_was(graph: Graph, case: str) -> None:
    module, application, path, answer = HTTP[case]
    await graph.graph(application, module)
    answers = await three(graph, path)
    assert sorted(each.status_code for each in answers) == [200, 200, 503]
    for each in answers:
        if each.status_code == 200:
            assert each.text == answer
        else:
            told = each.json()
            assert (told["code"], told["reason"], told["detail"]) == ("RESOURCE_EXHAUSTED", "CHILD_OVERLOADED", DETAIL)
            assert int(each.headers["retry-after"]) >= 1
    assert len(graph.events("child runs")) == 2
    await graph.until_free()


async def test_a_parent_that_handles_the_refusal_degrades(graph: Graph) -> None:
    await graph.graph("degrading")
    answers = await three(graph, "/")
    assert sorted(each.text for each in answers) == [
        "degraded default Child True",
        "worked for plain",
        "worked for plain",
    ]
    assert {each.status_code for each in answers} == {200}


@pytest.mark.parametrize("application", ["servicer", "sync_servicer"])
async def test_over_grpc_the_refusal_is_resource_exhausted_and_not_for_grpc_to_repeat(
    graph: Graph, application: str
) -> None:
    await graph.graph(application)
    async with grpc.aio.insecure_channel(graph.gateways.gateway.grpc_address) as channel:
        stub = stub_of(channel)
        assert (await stub.Unary(ask(what="ready"))).text == "True"
        calls = [stub.Unary(ask()) for _ in range(3)]
        await until(lambda: any(call.done() for call in calls), "one is answered")
        graph.open("go")
        codes = sorted([await call.code() for call in calls], key=lambda code: code.value[0])
        assert codes == [grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED]
        for call in calls:
            if await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert await call.details() == DETAIL
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                told = trailers(refused.value)
                assert told["grpc-retry-pushback-ms"] == "-1", "gRPC itself must not repeat what ran in part"
                retry = RetryInfo()
                (packed,) = (
                    each
                    for each in Status.FromString(told["grpc-status-details-bin"]).details
                    if each.Is(RetryInfo.DESCRIPTOR)
                )
                assert packed.Unpack(retry) and retry.retry_delay.ToMilliseconds() >= 1
