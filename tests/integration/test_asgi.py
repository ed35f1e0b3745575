"""ASGI applications behind the gateway: a real FastAPI, Starlette and a bare one, in real replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support.data_path import Connection, DataPath, data_path, finish
from tests.support.gateways import until
from tests.support.handlers import CHUNK

APPS = Path(__file__).parents[1] / "support" / "asgi_apps.py"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DataPath]:
    """One replica of the FastAPI application for all tests."""
    async with data_path(tmp_path_factory.mktemp("api"), code=APPS) as path:
        await path.serve("asgi_api", ongoing=60, queued=20, prefix="/shop/api")
        yield path


@pytest_asyncio.fixture(loop_scope="module")
async def api(served: DataPath) -> AsyncIterator[DataPath]:
    served.forget_events()
    yield served
    await served.until_free()


@pytest_asyncio.fixture(loop_scope="module")
async def path(tmp_path: Path) -> AsyncIterator[DataPath]:
    """Nothing but a gateway yet."""
    async with data_path(tmp_path, code=APPS) as path:
        yield path
        if path.replicas:
            await path.until_free()


async def test_paths_queries_bodies_and_validation(api: DataPath) -> None:
    assert (await api.get("/shop/api/items/3?q=x")).json() == {"number": 3, "q": "x"}
    assert (await api.get("/shop/api/items/three")).status_code == 422
    made = await api.post("/shop/api/items", json={"name": "bolt"})
    assert (made.status_code, made.json()) == (200, {"name": "BOLT", "price": 2.0})
    assert (await api.post("/shop/api/size", content=bytes(3_000_000))).json() == {"bytes": 3_000_000}
    assert (await api.get("/shop/api/nowhere")).json() == {"detail": "Not Found"}
    assert (await api.get("/items/3")).status_code == 404


async def test_the_route_prefix_is_the_root_path(api: DataPath) -> None:
    seen = (await api.get("/shop/api/seen?token=t", headers={"host": "shop.example"})).json()
    assert seen["root_path"] == "/shop/api" and seen["path"] == "/shop/api/seen"
    assert seen["url"] == "http://shop.example/shop/api/items/4"
    docs = (await api.get("/shop/api/docs")).text
    assert "/shop/api/openapi.json" in docs
    document = (await api.get("/shop/api/openapi.json")).json()
    assert document["servers"] == [{"url": "/shop/api"}] and "/items/{number}" in document["paths"]
    answer = await api.get("/shop/api/items/", follow_redirects=False)
    assert answer.headers["location"].endswith("/shop/api/items")


async def test_each_request_has_a_copy_of_the_lifespans_state(api: DataPath) -> None:
    for _ in range(2):
        seen = (await api.get("/shop/api/seen")).json()
        assert seen["mine"] and seen["state"][0] == 1


async def test_a_startup_that_fails_is_a_start_that_failed(tmp_path: Path) -> None:
    async with data_path(tmp_path, code=APPS) as path:
        with pytest.raises(AssertionError) as caught:
            await path.replica_of("asgi_broken")
    said = caught.value.args[0]
    assert "'failed'" in str(said) and "RuntimeError: no database" in str(said) and "handlers.py" in str(said)


async def test_what_raises_is_500_without_its_reason(api: DataPath) -> None:
    answer = await api.get("/shop/api/fails", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["request_id"] == "mine" and "secret" not in answer.text
    assert "the secret reason" in api.replica.log
    with pytest.raises(httpx.RemoteProtocolError):
        await api.get("/shop/api/fails-late")
    answer = await api.get("/shop/api/missing")
    assert (answer.status_code, answer.json()) == (404, {"missing": "'it'"})
    assert (await api.get("/shop/api/teapot")).json() == {"detail": "short and stout"}
    answer = await api.get("/shop/api/own-500")
    assert (answer.status_code, answer.text) == (500, "my own words")


async def test_a_background_task_keeps_its_slot(api: DataPath) -> None:
    assert (await api.get("/shop/api/background?gate=later")).json() == {"ok": True}
    assert await api.replica.ongoing() == 1
    api.open("later")
    await api.until_event("background end")


async def test_streams_and_events(api: DataPath) -> None:
    assert (await api.get("/shop/api/words")).text == "one two three"
    async with httpx.AsyncClient(http1=False, http2=True, timeout=30) as second:
        for client in (api.client, second):
            gate = f"gate-{client is second}"
            async with client.stream("GET", api.url(f"/shop/api/events?gate={gate}")) as answer:
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                lines = answer.aiter_lines()
                seen = [await anext(lines) for _ in range(12)]
                assert seen == [
                    line for n in range(3) for line in ("event: tick", f"id: {n}", f'data: {{"n":{n}}}', "")
                ]
                assert await anext(lines) == ": ping"
                api.open(gate)
                rest = [line async for line in lines if line and line != ": ping"]
                assert rest == ["data: last", "data: lines"]
    answer = await api.get("/shop/api/no-events")
    assert (answer.status_code, answer.json()["reason"]) == (500, "HANDLER_FAILED")


@pytest.mark.parametrize("http_2", [False, True])
async def test_a_slow_reader_holds_up_the_generator_and_ends_it_by_leaving(api: DataPath, http_2: bool) -> None:
    async with (
        httpx.AsyncClient(http1=not http_2, http2=http_2, timeout=30) as client,
        client.stream("GET", api.url("/shop/api/endless")) as answer,
    ):
        chunks = answer.aiter_raw()
        await anext(chunks)
        made = -1
        while made != len(api.events("made")):  # until it stands
            made = len(api.events("made"))
            await asyncio.sleep(0.3)
        assert made * len(CHUNK) < 64 * 1024 * 1024
        async for _ in chunks:
            if len(api.events("made")) > made:
                break
    await api.until_event("endless stop")


async def test_a_client_that_leaves_cancels_an_endpoint_which_may_clean_up(api: DataPath) -> None:
    request = asyncio.ensure_future(api.get("/shop/api/wait?number=1&gate=never"))
    await api.until_event("start 1")
    await finish(request)
    await api.until_event("cleaned 1")
    assert "end 1" not in api.events()


async def test_one_that_listens_is_told_and_ends_by_itself(api: DataPath) -> None:
    request = asyncio.ensure_future(api.get("/shop/api/listens"))
    await api.until_event("listens")
    await finish(request)
    await api.until_event("left by itself")


async def test_sync_endpoints_have_as_many_threads_as_there_are_slots(api: DataPath) -> None:
    requests = [asyncio.ensure_future(api.get("/shop/api/thread?gate=now")) for _ in range(60)]
    await api.until_event("threads 60")
    api.open("now")
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}


async def leave_a_thread(path: DataPath, prefix: str) -> None:
    request = asyncio.ensure_future(path.get(f"{prefix}/thread?gate=left"))
    await path.until_event("threads 1")
    await finish(request)
    await path.get(f"{prefix}/openapi.json")  # whatever was to happen has happened
    async with asyncio.timeout(20):
        while (ongoing := await path.replica.ongoing()) > 1:  # an application returns after its answer
            await asyncio.sleep(0.002)
    assert ongoing == 1
    path.open("left")
    await path.until_event("thread over")


async def test_a_thread_keeps_its_slot_when_its_client_leaves(api: DataPath) -> None:
    await leave_a_thread(api, "/shop/api")


async def test_a_deadline_ends_an_endpoint(api: DataPath) -> None:
    headers = {"x-request-timeout-seconds": "0.2"}
    answer = await api.get("/shop/api/wait?number=2&gate=never", headers=headers)
    assert answer.status_code == 504
    await api.until_event("cleaned 2")


async def test_methods_of_an_ingress_are_routes_with_self(path: DataPath) -> None:
    await path.serve("counter", prefix="/c")
    assert (await path.get("/c/count")).json() == {"count": 7}
    assert (await path.post("/c/count/3", json={"name": "x"})).json() == {"count": 10, "item": "x"}
    assert (await path.get("/c/static")).json() == "static"
    document = (await path.get("/c/openapi.json")).json()
    assert [p["name"] for p in document["paths"]["/count/{by}"]["post"]["parameters"]] == ["by"]
    await path.replica.configure(user_config_json='{"count": 40}')
    answer = await path.get("/c/count")
    assert (answer.json(), answer.headers["x-stamp"]) == ({"count": 40}, "1")
    await leave_a_thread(path, "/c")


async def test_starlette_and_bare_applications(path: DataPath) -> None:
    await path.serve("pages")
    assert (await path.get("/page?q=1")).text == "a page 1"
    assert (await path.get("/other")).status_code == 404


async def test_a_bare_application_needs_no_lifespan(path: DataPath) -> None:
    await path.serve("asgi_bare")
    answer = await path.post("/", content=b"abc")
    assert (answer.content, answer.headers["x-bare"]) == (b"cba", "1")


async def test_slots_are_exact_and_the_lifespan_is_around_all_requests(path: DataPath) -> None:
    await path.serve("asgi_api", ongoing=2, queued=2)
    assert path.events() == ["startup"]
    tasks = [asyncio.ensure_future(path.get(f"/wait?number={n}&gate=go")) for n in range(9)]
    await until(lambda: sum(task.done() for task in tasks) == 5, "five are shed")
    path.open("go")
    answers = await asyncio.gather(*tasks)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 5
    assert await path.replica.stop() == 0
    assert path.events()[-1] == "shutdown" and path.events().count("shutdown") == 1
    path.replicas.clear()


async def test_a_connection_goes_on_after_an_endpoint_that_read_no_body(api: DataPath) -> None:
    connection = await Connection.open(api.gateways.gateway.http_address)
    for _ in range(2):
        connection.send(b"GET /shop/api/items/1 HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nabcde")
        assert (await connection.answer())[0] == 200
    await connection.close()
