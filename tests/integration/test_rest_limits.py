"""REST under limits: shedding, deadlines, clients that leave, large bodies, lost replicas; prefixes and plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.data_path import finish
from tests.support.gateways import WAIT_SECONDS, until
from tests.support.rest import BARE, LINES, MANY, RestPath, items, messages, rest_path, told
from tests.support.rest import interface as interface_of

Send = Callable[[RestPath, str], Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[RestPath]:
    async with rest_path(tmp_path) as path:
        yield path


async def by_body(rest: RestPath, number: str) -> httpx.Response:
    return await rest.do("gated", id=number, gate="go")


async def by_query(rest: RestPath, number: str) -> httpx.Response:
    return await rest.get(f"/v1/do/gated?id={number}&gate=go")


async def by_connect(rest: RestPath, number: str) -> httpx.Response:
    return await rest.connect("gated", id=number, gate="go")


async def by_web(rest: RestPath, number: str) -> httpx.Response:
    message = messages().Ask(what="gated", id=number, gate="go").SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return await rest.post(BARE, content=body, headers={"content-type": "application/grpc-web"})


async def by_stream(rest: RestPath, number: str) -> httpx.Response:
    return await rest.get(f"/v1/many?id={number}&count=1&gate=go")


async def by_lines(rest: RestPath, number: str) -> httpx.Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"what": "gated"}\n'

    return await rest.post("/v1/sum/go", content=lines(), headers=LINES)


@pytest.mark.parametrize("send", [by_body, by_query, by_connect, by_web, by_stream, by_lines])
async def test_two_run_two_wait_and_of_nine_exactly_five_are_shed(rest: RestPath, send: Send) -> None:
    await rest.serve(ongoing=2, queued=2)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(send(rest, str(i))) for i in range(9)]
        await until(lambda: sum(call.done() for call in calls) == 5, "five are answered")
        shed = [call.result() for call in calls if call.done()]
        await rest.until_running(2)
        await rest.until_queued(2)
        rest.open("go")
    answers = [call.result() for call in calls]
    if send is by_web:
        assert {answer.status_code for answer in answers} == {200}
        assert all(
            b"grpc-status: 8\r\n" in answer.content and b"grpc-retry-pushback-ms: " in answer.content for answer in shed
        )
        assert sum(b"grpc-status: 0\r\n" in answer.content for answer in answers) == 4
        return
    assert Counter(answer.status_code for answer in answers) == {200: 4, 503: 5}
    for answer in shed:
        assert int(answer.headers["retry-after"]) >= 1
        if send is by_connect:
            assert answer.json()["code"] == "resource_exhausted"
        else:
            assert told(answer, 503, "RESOURCE_EXHAUSTED")["reason"] == "OVERLOADED"
    await rest.until_free()


@pytest.mark.parametrize(
    "header", [("x-request-timeout-seconds", "0.2"), ("grpc-timeout", "200m"), ("connect-timeout-ms", "200")]
)
async def test_a_deadline_by_each_of_its_names(rest: RestPath, header: tuple[str, str]) -> None:
    await rest.serve()
    fields = dict([header])
    detail = "the request took longer than 0.2 s"
    for i, work in enumerate((rest.do("wait", id="0", headers=fields), rest.get("/v1/do/wait?id=1", headers=fields))):
        told(await work, 504, "DEADLINE_EXCEEDED", detail)
        await rest.until_event(f"ended {i}")
    lines = items((await rest.get("/v1/many/wait?id=2&count=1", headers=fields)).content)
    assert lines[0] == {"text": "2"}
    assert (lines[1]["error"]["code"], lines[1]["error"]["detail"]) == ("DEADLINE_EXCEEDED", detail)
    await rest.until_event("ended 2")
    seen = json.loads(
        (await rest.do("seen", headers={header[0]: "9000m" if header[0] == "grpc-timeout" else "9000"})).json()["text"]
    )
    assert 0 < seen["time_remaining"] <= 60
    await rest.until_free()


async def test_deadlines_told_in_each_form(rest: RestPath) -> None:
    await rest.serve()
    connect = await rest.connect("wait", headers={"connect-timeout-ms": "50"})
    assert (connect.status_code, connect.json()["code"]) == (504, "deadline_exceeded")
    message = messages().Ask(what="wait").SerializeToString()
    content = b"\0" + len(message).to_bytes(4, "big") + message
    for path in (BARE, MANY):
        fields = {"content-type": "application/grpc-web", "grpc-timeout": "50000u"}
        web = await rest.post(path, content=content, headers=fields)
        assert (web.status_code, b"grpc-status: 4\r\n" in web.content) == (200, True)
    await rest.until_free()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("grpc-timeout", "1"), ("grpc-timeout", "m"), ("grpc-timeout", "-1S"), ("grpc-timeout", "1s")),
        *(("grpc-timeout", "123456789S"), ("grpc-timeout", "1 S"), ("grpc-timeout", ""), ("connect-timeout-ms", "1.5")),
        *(("connect-timeout-ms", "12345678901"), ("connect-timeout-ms", ""), ("x-request-timeout-seconds", "soon")),
    ],
)
async def test_a_deadline_that_is_none(rest: RestPath, name: str, value: str) -> None:
    await rest.serve()
    problem = told(await rest.do(headers={name: value}), 400, "INVALID_ARGUMENT")
    assert problem["detail"].startswith(f"{name}: must be ")


async def test_the_longest_and_the_shortest_deadline(rest: RestPath) -> None:
    await rest.serve()
    for name, value in (("grpc-timeout", "99999999H"), ("connect-timeout-ms", "9999999999")):
        seen = json.loads((await rest.do("seen", headers={name: value})).json()["text"])
        assert 0 < seen["time_remaining"] <= 60
        assert items((await rest.get("/v1/many?count=1", headers={name: value})).content) == [{}]
    for name, value in (("grpc-timeout", "0n"), ("connect-timeout-ms", "0")):
        told(await rest.do("wait", headers={name: value}), 504, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("how", ["body", "query", "connect"])
async def test_a_client_that_hangs_up_cancels_the_method(rest: RestPath, how: str) -> None:
    await rest.serve()
    send = {"body": by_body, "query": by_query, "connect": by_connect}[how]
    client = rest.gateways.gateway.pipeline.tasks.spawn(send(rest, "7"), name="client")
    await rest.until_event("start 7")
    await finish(client)
    await rest.until_event("cancelled 7 True")
    await rest.until_free()


async def test_one_that_hangs_up_while_it_waits_never_runs(rest: RestPath) -> None:
    await rest.serve(ongoing=1)
    tasks = rest.gateways.gateway.pipeline.tasks
    first = tasks.spawn(by_body(rest, "1"), name="first")
    await rest.until_event("start 1")
    second = tasks.spawn(by_body(rest, "2"), name="second")
    await rest.until_queued(1)
    await finish(second)
    await rest.until_queued(0)
    rest.open("go")
    assert (await first).status_code == 200
    assert "start 2" not in rest.events()
    await rest.until_free()


async def test_a_replica_that_dies(rest: RestPath) -> None:
    await rest.serve()
    told(await rest.do("die"), 502, "UNAVAILABLE")
    assert rest.events("died") == [""]


async def test_what_may_run_twice_is_repeated_once(rest: RestPath) -> None:
    first, second = await rest.another(), await rest.another()
    endpoints = ((first.replica_id, first.address), (second.replica_id, second.address))
    from tests.support.gateways import Routed

    await rest.gateways.publish(Routed(ongoing=20, queued=20, endpoints=endpoints, interface=interface_of("app")))
    for _ in range(20):  # pays for a repetition
        assert (await rest.do(id="x")).status_code == 200
    told(await rest.get("/v1/do/die"), 502, "UNAVAILABLE")
    assert rest.events("died") == ["", ""]


async def test_large_bodies_while_small_requests_go_on(rest: RestPath) -> None:
    await rest.serve(ongoing=10)
    data = base64.b64encode(bytes(range(256)) * 30_000).decode()  # 10 MB of text
    large = rest.gateways.gateway.pipeline.tasks.spawn(rest.do(id="large", data=data), name="large")
    small = 0
    while not large.done():
        assert (await rest.do(id="small", count=small)).json()["text"] == "small"
        small += 1
    answer = await large
    assert answer.json() == {"text": "large", "data": data}
    assert small > 3
    numbers = {"what": "total", "numbers": [0.5] * 1_000_000}
    assert (await rest.post("/v1/do", json=numbers)).json() == {"total": "500000", "count": 1_000_000}
    await rest.until_free()


async def test_a_route_prefix(rest: RestPath) -> None:
    await rest.serve(prefix="/deep/api")
    assert (await rest.post("/deep/api/v1/do", json={"id": "a"})).json() == {"text": "a"}
    assert (await rest.get("/deep/%61pi/v1/words/words")).json() == ["a", "b"]
    assert (await rest.post(f"/deep/api{BARE}", json={"id": "b"})).json() == {"text": "b"}
    connect = await rest.post(f"/deep/api{BARE}", json={"id": "c"}, headers={"connect-protocol-version": "1"})
    assert connect.json() == {"text": "c"}
    for path in ("/v1/do/x", "/deep/api", "/deep/api/", "/deep/api2/v1/do/x", "/deep/v1/do/x", "/deep/api//v1/do/x"):
        assert told(await rest.get(path), 404, "UNIMPLEMENTED")["reason"] == "NO_SUCH_ROUTE"


@pytest.mark.parametrize("prefix", ["/", "/api"])
async def test_plain_http_beside_rest(rest: RestPath, prefix: str) -> None:
    replica = await rest.another("both")
    await rest.route(replica, "both", prefix=prefix, ongoing=20, queued=20)
    root = prefix.rstrip("/")
    assert (await rest.get(f"{root}/v1/words/words")).json() == ["a", "b"]
    assert (await rest.post(f"{root}{BARE}", json={"id": "b"})).json() == {"text": "b"}
    assert (await rest.get(f"{root}/else/where?x=1")).json() == {"plain": f"{root}/else/where", "root": root}
    assert (await rest.post(f"{root}/v1/none", content=b"anything")).json()["plain"] == f"{root}/v1/none"
    told(await rest.client.patch(rest.url(f"{root}/v1/do")), 405, "UNIMPLEMENTED")


async def test_a_slow_reader_of_a_stream_holds_up_nobody(rest: RestPath) -> None:
    await rest.serve(ongoing=10)
    async with rest.client.stream("GET", rest.url("/v1/many?id=slow&count=200000")) as slow:
        for i in range(20):
            assert (await rest.do(id=str(i))).json() == {"text": str(i)}
        lines = slow.aiter_lines()
        async with asyncio.timeout(WAIT_SECONDS):
            assert json.loads(await anext(lines)) == {"text": "slow"}
    await rest.until_free()


async def test_a_stream_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    async with rest_path(tmp_path, stream_idle_timeout_s=0.3) as rest:
        await rest.serve()
        async with rest.client.stream("GET", rest.url("/v1/many?id=slow&count=2000000")) as answer:
            dispatcher = rest.gateways.dispatcher()
            await until(lambda: not dispatcher.in_flight, "the call is given up")
            assert answer.status_code == 200
        quiet = items((await rest.get("/v1/many/wait?count=1")).content)[1]["error"]
        assert (quiet["status"], quiet["detail"]) == (504, "no progress for 0.3 s")


async def test_a_schema_that_changes_under_load(rest: RestPath) -> None:
    """What runs ends as it began; nothing is refused meanwhile."""
    first = await rest.serve("app")
    running = rest.gateways.gateway.pipeline.tasks.spawn(by_stream(rest, "old"), name="old")
    dispatcher = rest.gateways.dispatcher()
    await until(lambda: dispatcher.in_flight == 1, "it runs")
    second = await rest.another("both")
    stop = asyncio.Event()

    async def load() -> int:
        sent = 0
        while not stop.is_set():
            assert (await rest.do(id="x")).json() == {"text": "x"}
            sent += 1
        return sent

    async with asyncio.TaskGroup() as group:
        loads = [group.create_task(load()) for _ in range(2)]
        for _ in range(3):
            await rest.route(second, "both", ongoing=20, queued=20)
            await rest.route(first, "app", ongoing=20, queued=20)
        await rest.route(second, "both", ongoing=20, queued=20)
        stop.set()
    assert all(task.result() for task in loads)
    assert (await rest.get("/else")).json()["plain"] == "/else"
    rest.open("go")
    with contextlib.suppress(asyncio.CancelledError):
        assert items((await running).content) == [{"text": "old"}]
