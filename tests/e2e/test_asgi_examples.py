"""examples/fastapi_app and examples/tokens on a mesh: a FastAPI application does behind a prefix what it does alone."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, MeshProcess, eventually

pytestmark = pytest.mark.timeout(120)

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/offers", {}),
    ("GET", "/offers?skip=1&limit=1", {}),
    ("GET", "/offers?limit=1000", {}),
    ("GET", "/offers/2", {}),
    ("GET", "/offers/0", {}),
    ("GET", "/offers/7", {}),
    ("GET", "/offers/13", {}),
    ("POST", "/offers", {"json": {"name": "washer", "price": 0.1, "tags": ["flat"]}}),
    ("POST", "/offers", {"json": {"name": "", "price": -1}}),
    ("POST", "/offers", {"content": b"{"}),
    ("POST", "/orders/2", {}),
    ("POST", "/orders/2", {"headers": {"x-token": "let-me-in"}}),
    ("GET", "/orders/mails", {}),
    ("GET", "/countdown?start=2", {}),
    ("GET", "/countdown/", {}),
    ("DELETE", "/offers", {}),
    ("GET", "/nowhere", {}),
    ("GET", "/", {}),
    ("GET", "/docs", {}),
    ("GET", "/openapi.json", {}),
]
"""What is asked of the application, alone and on the mesh."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshProcess]:
    directory = EXAMPLES / "fastapi_app"
    with MeshProcess("run", "config.yaml", *FREE_PORTS, cwd=directory) as process:
        yield process


def told(answer: httpx.Response) -> tuple[int, str, str, str]:
    """Return what must be the same wherever an application runs."""
    headers = answer.headers
    return answer.status_code, headers.get("content-type", ""), headers.get("location", ""), answer.text


async def alone(host: str) -> list[tuple[int, str, str, str]]:
    """Ask the application itself, as a server behind a proxy would."""
    sys.path.insert(0, str(EXAMPLES / "fastapi_app"))
    try:
        from shop_api import api
    finally:
        sys.path.pop(0)
    seen = []
    async with api.router.lifespan_context(api) as state:

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await api({**scope, "path": f"/shop{scope['path']}", "state": dict(state or {})}, receive, send)

        transport = httpx.ASGITransport(application, root_path="/shop")
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            for method, path, options in REQUESTS:
                seen.append(told(await client.request(method, path, **options)))
    return seen


def test_fastapi_answers_as_it_does_alone(mesh: MeshProcess) -> None:
    expected = asyncio.run(alone(mesh.http.removeprefix("http://")))
    assert {status for status, *_ in expected} == {200, 201, 307, 401, 404, 405, 410, 422}
    with httpx.Client() as client:
        for (method, path, options), wanted in zip(REQUESTS, expected, strict=True):
            if path == "/orders/mails":  # a background task, which may run on after the answer
                eventually(client.get(f"{mesh.http}/shop{path}").json, what="the order is mailed")
            answer = client.request(method, f"{mesh.http}/shop{path}", **options)
            assert told(answer) == wanted, (method, path)
            assert answer.headers["x-process-time"] and answer.headers["x-request-id"]
    assert "'/shop/openapi.json'" in expected[-2][3] and '"servers":[{"url":"/shop"}]' in expected[-1][3]


def test_its_websocket_and_the_class_with_routes(mesh: MeshProcess) -> None:
    address = mesh.http.replace("http", "ws")
    with connect(f"{address}/shop/chat/ada", proxy=None, subprotocols=["chat"]) as socket:  # type: ignore[list-item]
        socket.send("hello")
        assert socket.recv() == "ada said hello" and socket.subprotocol == "chat"
        socket.send("bye")
        with pytest.raises(Exception, match="bye ada"):
            socket.recv()
    assert httpx.post(f"{mesh.http}/counter/count?by=5").json() == {"count": 15}
    assert httpx.get(f"{mesh.http}/counter/count").json() == {"count": 15}


def test_tokens_come_one_by_one_and_end_with_their_reader() -> None:
    with MeshProcess("run", "tokens:app", *FREE_PORTS, cwd=EXAMPLES / "tokens") as mesh, httpx.Client() as client:
        events = []
        with client.stream("GET", f"{mesh.http}/?prompt=a+b&count=5") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    events.append(value)
                elif name == "data":
                    last = json.loads(value)
        assert events == ["token"] * 5 + ["done"] and last == {"prompt_words": 2, "tokens": 5}
        streams = [client.stream("GET", f"{mesh.http}/?count=10000") for _ in range(4)]
        for stream in streams:
            assert stream.__enter__().status_code == 200
        for stream in streams:
            stream.__exit__(None, None, None)
        eventually(
            lambda: " 0.0" in next(line for line in metrics(mesh) if "mesh_requests_in_flight{" in line),
            what="those who left hold no slot",
        )


def metrics(mesh: MeshProcess) -> list[str]:
    return httpx.get(f"{mesh.admin}/metrics").text.splitlines()
