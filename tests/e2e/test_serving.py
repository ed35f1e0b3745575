"""What clients of `meshctl run` see: exact limits, big bodies, clients that leave. Real processes, real clients."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import requests
from google.rpc import error_details_pb2, status_pb2
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mesh.v1 import ingress_service_pb2 as pb
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.mesh_process import FREE_PORTS, MeshProcess, eventually

REPEATS = 50
DETAIL = "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2)."
CODE = """\
import asyncio
import os
import time

import mesh
from starlette.requests import Request
from starlette.responses import StreamingResponse

HERE = os.path.dirname(os.path.abspath(__file__))


def released(request):
    return os.path.exists(os.path.join(HERE, "release-" + request.query_params["until"]))


@mesh.deployment(max_ongoing_requests=2, max_queued_requests=2)
class Threads:
    def __call__(self, request: Request):
        while not released(request):
            time.sleep(0.002)
        return "Hello!"


@mesh.deployment(max_ongoing_requests=2, max_queued_requests=2)
class Loop:
    async def __call__(self, request: Request):
        while not released(request):
            await asyncio.sleep(0.002)
        return "Hello!"


@mesh.deployment(max_ongoing_requests=4, max_queued_requests=2000)
class Bodies:
    def __init__(self):
        self.cancelled = 0
        self.finished = 0
        self.running = 0

    async def __call__(self, request: Request):
        what = request.url.path.rpartition("/")[2]
        if what == "up":
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
            return {"bytes": size}
        if what == "down":
            return StreamingResponse(self.down(int(request.query_params["mib"])))
        if what == "endless":
            return StreamingResponse(self.endless())
        if what == "sleep":
            self.running += 1
            with open(os.path.join(HERE, "running"), "w") as file:
                file.write(str(self.running))
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
        if what == "counts":
            return {"cancelled": self.cancelled, "finished": self.finished, "running": self.running}
        return "small"

    async def down(self, mib):
        for _ in range(mib * 16):
            yield bytes(65536)

    async def endless(self):
        try:
            while True:
                yield b"tick" * 256
                await asyncio.sleep(0.001)
        finally:
            self.finished += 1


threads = Threads.bind()
loop = Loop.bind()
bodies = Bodies.bind()
"""
CONFIG = """\
applications:
- {name: threads, route_prefix: /threads, import_path: "served:threads"}
- {name: loop, route_prefix: /loop, import_path: "served:loop"}
- {name: bodies, route_prefix: /bodies, import_path: "served:bodies"}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """A `meshctl run` of the code above."""
    directory = tmp_path_factory.mktemp("serving")
    (directory / "served.py").write_text(CODE)
    (directory / "mesh.yaml").write_text(CONFIG)
    with MeshProcess("run", str(directory / "mesh.yaml"), *FREE_PORTS, cwd=directory) as process:
        process_directory[process.pid] = directory
        yield process


process_directory: dict[int, Path] = {}


def release(mesh: MeshProcess, name: str) -> None:
    """Let the handlers of one burst return."""
    (process_directory[mesh.pid] / f"release-{name}").touch()


def metric(mesh: MeshProcess, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    text = httpx.get(f"{mesh.admin}/metrics", trust_env=False, timeout=30).text
    total = 0.0
    for line in text.splitlines():
        found = re.match(rf"{name}(?:{{(.*)}})? (\S+)$", line)
        if found is None:
            continue
        sample = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
        if all(sample.get(key) == value for key, value in labels.items()):
            total += float(found[2])
    return total


async def http_burst(mesh: MeshProcess, client: httpx.AsyncClient, application: str, name: str) -> list[httpx.Response]:
    """Send nine requests at once; release the handlers once five answers are in."""
    url = f"{mesh.http}/{application}"
    pending = {asyncio.ensure_future(client.get(url, params={"until": name})) for _ in range(9)}
    refused: list[httpx.Response] = []
    while len(refused) < 5:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert done, "nobody was refused"
        refused += [task.result() for task in done]
    # Whoever is shed hears it while the others still run, not after them.
    assert {response.status_code for response in refused} == {503}
    release(mesh, name)
    return refused + list(await asyncio.gather(*pending))


@pytest.mark.parametrize("application", ["threads", "loop"])
async def test_nine_at_once_over_http_are_four_served_and_five_shed_every_time(
    mesh: MeshProcess, application: str
) -> None:
    before = metric(mesh, "mesh_requests_shed_total", application=application)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for repeat in range(REPEATS):
            answers = await http_burst(mesh, client, application, f"{application}-{repeat}")
            assert Counter(answer.status_code for answer in answers) == {200: 4, 503: 5}
            for shed in (answer for answer in answers if answer.status_code == 503):
                assert shed.headers["content-type"] == "application/problem+json"
                assert shed.json()["detail"] == DETAIL
                assert shed.json()["code"] == "RESOURCE_EXHAUSTED"
                assert shed.json()["request_id"] == shed.headers["x-request-id"]
                assert int(shed.headers["retry-after"]) >= 1
    assert metric(mesh, "mesh_requests_shed_total", application=application) - before == 5 * REPEATS
    mesh.wait_line("stderr", lambda line: DETAIL in line)


@pytest.mark.parametrize("application", ["threads", "loop"])
async def test_nine_at_once_over_grpc_are_four_served_and_five_shed_every_time(
    mesh: MeshProcess, application: str
) -> None:
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        stub: Any = IngressServiceStub(channel)
        for repeat in range(REPEATS):
            name = f"{application}-grpc-{repeat}"
            request = pb.HandleRequest(path=f"/?until={name}")
            calls = [stub.Handle(request, metadata=(("application", application),), timeout=30) for _ in range(9)]
            pending = {asyncio.ensure_future(call.code()) for call in calls}
            codes: list[grpc.StatusCode] = []
            while len(codes) < 5:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED, timeout=20)
                codes += [task.result() for task in done]
            assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            release(mesh, name)
            codes += await asyncio.gather(*pending)
            assert Counter(codes) == {grpc.StatusCode.OK: 4, grpc.StatusCode.RESOURCE_EXHAUSTED: 5}
        await assert_told(calls)


async def assert_told(calls: list[Any]) -> None:
    """Each shed call says why and when to come back; each served one has the body."""
    for call in calls:
        if await call.code() is grpc.StatusCode.OK:
            response = await call
            assert (response.status, response.body) == (200, b"Hello!")
            continue
        assert await call.details() == DETAIL
        trailers = dict(await call.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) > 0
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        reason, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(reason)
        assert status.details[1].Unpack(retry)
        assert reason.reason == "OVERLOADED"


def test_a_client_that_honours_retry_after_gets_through_a_burst(mesh: MeshProcess) -> None:
    answers: list[int] = []

    def ask() -> None:
        with requests.Session() as session:
            session.trust_env = False
            retries = Retry(total=5, backoff_factor=1, status_forcelist=[500, 501, 502, 503, 504])
            session.mount("http://", HTTPAdapter(max_retries=retries))
            answers.append(session.get(f"{mesh.http}/threads", params={"until": "retried"}, timeout=60).status_code)

    before = metric(mesh, "mesh_requests_shed_total", application="threads")
    threads = [threading.Thread(target=ask) for _ in range(7)]
    for thread in threads:
        thread.start()
    shed = "the burst is shed at first"
    eventually(lambda: metric(mesh, "mesh_requests_shed_total", application="threads") >= before + 3, what=shed)
    release(mesh, "retried")
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 7


async def test_big_bodies_leave_small_requests_and_memory_alone(mesh: MeshProcess) -> None:
    mib = 200
    process = psutil.Process(mesh.pid)
    done = asyncio.Event()
    highest, small = 0, 0

    async def upload() -> int:
        async def body() -> Any:
            for _ in range(mib * 4):
                yield bytes(256 * 1024)

        response = await client.post(f"{mesh.http}/bodies/up", content=body())
        return int(response.json()["bytes"])

    async def download() -> int:
        size = 0
        async with client.stream("GET", f"{mesh.http}/bodies/down", params={"mib": mib}) as response:
            assert response.status_code == 200
            async for chunk in response.aiter_raw():
                size += len(chunk)
        return size

    async def ask() -> None:
        nonlocal highest, small
        while not done.is_set():
            assert (await client.get(f"{mesh.http}/bodies/")).text == "small"
            small += 1
            highest = max(highest, process.memory_info().rss)

    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        assert (await client.get(f"{mesh.http}/bodies/")).text == "small"
        before = process.memory_info().rss
        asking = asyncio.ensure_future(ask())
        moved = await asyncio.gather(upload(), download())
        done.set()
        await asking
    assert list(moved) == [mib * 2**20, mib * 2**20]
    assert small > 10
    assert highest - before < 100 * 2**20


async def test_an_endless_answer_stops_when_its_client_leaves(mesh: MeshProcess) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        before = (await client.get(f"{mesh.http}/bodies/counts")).json()["finished"]
        async with client.stream("GET", f"{mesh.http}/bodies/endless") as response:
            async for _ in response.aiter_raw():
                break
        while (await client.get(f"{mesh.http}/bodies/counts")).json()["finished"] == before:
            pass


async def test_a_thousand_clients_that_hang_up_leak_nothing(mesh: MeshProcess) -> None:
    host, _, port = mesh.http.removeprefix("http://").partition(":")
    request = f"GET /bodies/sleep HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    process = psutil.Process(mesh.pid)
    running = process_directory[mesh.pid] / "running"

    async def counts() -> dict[str, int]:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return (await client.get(f"{mesh.http}/bodies/counts")).json()  # type: ignore[no-any-return]

    def idle() -> bool:
        held = [metric(mesh, f"mesh_requests_{name}", application="bodies") for name in ("in_flight", "queued")]
        return held == [0, 0]

    async def hang_up(count: int) -> None:
        running.write_text("0")
        writers = []
        for _ in range(count):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            writers.append(writer)
        # Four run, the rest waits.
        while metric(mesh, "mesh_requests_queued", application="bodies") < count - 4 or running.read_text() != "4":
            await asyncio.to_thread(lambda: None)
        for writer in writers:
            writer.close()
        await asyncio.to_thread(eventually, idle, what="no call is left", timeout=60)

    await hang_up(50)
    before, descriptors, threads = await counts(), process.num_fds(), process.num_threads()
    for _ in range(5):
        await hang_up(200)
    after = await counts()
    assert after["running"] == 0
    # Those that ran were cancelled; those that only waited never started (each batch ran four, and a few
    # more while it was being closed).
    assert 20 <= after["cancelled"] - before["cancelled"] < 500
    await asyncio.to_thread(eventually, lambda: process.num_fds() <= descriptors + 5, what="descriptors are freed")
    assert process.num_threads() <= threads + 2
