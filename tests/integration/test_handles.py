"""Handles between real replicas: values, errors, responses as arguments, servicers, streams, deadlines and cancels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.support.data_path import Connection, finish
from tests.support.gateways import until, until_async
from tests.support.graphs import Graph, graphs

FAR_S = 30.0


@pytest.fixture
async def graph(tmp_path: Path) -> AsyncIterator[Graph]:
    async with graphs(tmp_path) as made:
        yield made


ANSWERS = {
    "values": "ok",
    "unfinished": "{'all': ['first', 'second']}",
    "of_a_property": "[1, 2]",
    "shared": "['shared']",
    "of_a_cancelled_call": "an argument is the response of a call that was cancelled",
    "cancelled_there": "RemoteError: deployment 'Echo' of application 'default' raised CancelledError: ",
    "raises": "builtins.ValueError: deployment 'Echo' of application 'default' raised ValueError: secret reason",
    "timeout": "True deployment 'Echo' of application 'default' did not answer within the 0.05 s that were left",
    "no_such_method": "deployment 'Echo' of application 'default' raised HandleMisused: "
    "deployment 'Echo' has no method 'nothing'",
    "no_such_deployment": "Unavailable: deployment 'Nobody' of application 'default': application 'default' has no "
    "deployment 'Nobody'",
    "found": "found",
    "cannot_travel": "args[0][1]['here']: a builtins.object cannot travel between deployments",
    "blocks": "result() would block the event loop of this thread",
    "not_a_stream": "Echo.slowly yields no items",
    "servicer": "me [0, 1, 2] deployment 'Echo' of application 'default' answered NOT_FOUND: no such thing",
    "cancelled": "True",
}


async def test_what_calls_carry_and_how_they_fail(graph: Graph) -> None:
    await graph.graph("asking", "graph_values")
    answers = {path: await graph.get(f"/{path}") for path in ANSWERS}
    assert {path: answer.text for path, answer in answers.items()} == ANSWERS
    assert (await graph.get("/lets_through")).status_code == 500
    assert "secret" not in (await graph.get("/lets_through")).text
    await graph.until_free()
    # The request's id and trace are known in the child.
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "request-17", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert (await graph.get("/context", headers=headers)).text == "seen"
    lines = [json.loads(line) for line in graph.by_name["Echo"].log.splitlines() if "in the child" in line]
    assert [(line["request_id"], line["trace_id"]) for line in lines] == [("request-17", trace)]


async def test_a_chain_ends_all_the_way_down(graph: Graph) -> None:
    await graph.graph("chain_of_five")
    assert (await graph.get("/ready")).text == "L1L2L3L4L5"
    answer = await graph.get("/", headers={"x-request-timeout-seconds": "0.5"})
    assert answer.status_code == 504, answer.text
    await until(lambda: len(_cancelled(graph)) == 5, "all five are told", timeout_s=FAR_S)
    assert sorted(_cancelled(graph)) == ["L1", "L2", "L3", "L4", "L5"]
    await graph.until_free()
    request = asyncio.ensure_future(graph.get("/"))
    await until(lambda: graph.events("L5 runs") == ["", ""], "the last one runs")
    await finish(request)  # the client hangs up
    await until(lambda: len(_cancelled(graph)) == 10, "all five are told", timeout_s=FAR_S)
    await graph.until_free()


def _cancelled(graph: Graph) -> list[str]:
    return [line.split()[0] for line in graph.events() if " cancelled " in line]


async def test_ten_thousand_items_keep_their_order_and_bound_memory(graph: Graph) -> None:
    """Items of 4 KiB, 40 MB in all, through three deployments, whose reader pauses after the first hundred."""
    await graph.graph("streams")
    warm = await graph.get("/?count=200&size=4096")
    assert warm.text == "200"
    before = _memory(graph)
    request = asyncio.ensure_future(graph.get("/?count=10000&size=4096&pause"))
    await graph.until_event("reader pauses")
    await _until_quiet(graph)
    yielded = int(graph.events("yielded")[-1])
    assert yielded < 2000, "the generator waits with its reader"
    assert _memory(graph) - before < 16 * 1024 * 1024
    graph.open("read")
    assert (await request).text == "10000"
    assert _memory(graph) - before < 32 * 1024 * 1024
    await graph.until_free()


async def test_whoever_stops_reading_ends_or_holds_back_the_first_generator(graph: Graph) -> None:
    await graph.graph("streams")
    # A reader that leaves.
    assert (await graph.get("/?count=1000000&stop=5")).text == "5"
    await until(lambda: len(graph.events("source ended")) == 1, "the generator is ended")
    # A client that does not read, and then leaves.
    connection = await Connection.open(graph.gateways.addresses[0])
    connection.send(b"GET /?count=1000000&size=4096&pass HTTP/1.1\r\nhost: test\r\n\r\n")
    assert (await connection.head())[0] == 200
    await _until_quiet(graph)
    assert int(graph.events("yielded")[-1]) < 999_900
    await connection.close()
    await until(lambda: len(graph.events("source ended")) == 2, "the generator is ended")
    await graph.until_free()


async def test_callers_of_a_batch_that_leave_are_dropped_and_the_last_ends_it(graph: Graph) -> None:
    await graph.graph("batches")
    waits = asyncio.ensure_future(graph.get("/?text=leaves"))
    await _until_running(graph, "Batching", 1)
    await finish(waits)  # before its batch went
    await _until_running(graph, "Batching", 0)
    calls = [asyncio.ensure_future(graph.get(f"/?text={text}")) for text in ("one", "two")]
    await graph.until_event("batch one two")
    for call in calls:
        await finish(call)
    await graph.until_event("batch cancelled")
    await graph.until_free()


async def _until_running(graph: Graph, deployment: str, count: int) -> None:
    async def running() -> bool:
        return await graph.by_name[deployment].ongoing() == count

    await until_async(running, f"{deployment} runs {count}")


def _memory(graph: Graph) -> int:
    return sum(psutil.Process(replica.pid).memory_info().rss for replica in graph.replicas)


async def _until_quiet(graph: Graph) -> None:
    """Wait until nothing has been yielded for a while."""
    seen = -1
    while seen != (seen := len(graph.events("yielded"))) or not seen:
        await asyncio.sleep(0.5)
