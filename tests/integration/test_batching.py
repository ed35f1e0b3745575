"""Batches and models on real replicas behind a real gateway: by HTTP, by REST and by gRPC."""

from __future__ import annotations

import asyncio
import re
import shutil
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import mesh
from mesh import testing
from mesh.model import DeploymentSettings
from tests.support.data_path import finish
from tests.support.gateways import Routed
from tests.support.native import NativePath, ask, interface, native_path, refused
from tests.support.replicas import ReplicaProcess

SERVICE = Path(__file__).parents[1] / "support" / "model_service.py"


class ModelPath(NativePath):
    """Replicas of `model_service` behind a gateway."""

    async def start(self, application: str, *, ongoing: int = 8) -> ReplicaProcess:
        replica = ReplicaProcess(
            self.directory,
            f"model_service:{application}",
            deployment="Handler",
            settings=DeploymentSettings(max_ongoing_requests=ongoing),
        )
        self.replicas.append(await self._stack.enter_async_context(replica))
        return replica

    async def serve_all(self, *, ongoing: int = 8, servicer: bool = True, **routed: Any) -> None:
        """Route to all replicas there are."""
        endpoints = tuple((replica.replica_id, replica.address) for replica in self.replicas)
        answers = interface("asynchronous") if servicer else None
        if answers is not None:
            answers.grpc_only = False
        await self.gateways.publish(Routed(ongoing=ongoing, endpoints=endpoints, interface=answers, **routed))

    async def metrics(self, name: str, number: int = 0) -> dict[str, float]:
        """Return the samples of a metric at a replica, by their labels."""
        url = f"http://{self.replicas[number].admin_address}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        found = re.findall(rf"^{name}(?:{{(.*?)}})? ([0-9.e+]+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[ModelPath]:
    async with native_path(tmp_path) as made:
        shutil.copy(SERVICE, tmp_path)
        made.__class__ = ModelPath
        assert isinstance(made, ModelPath)
        yield made


async def test_http_and_grpc_share_a_batch(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    by_http, by_grpc = await asyncio.gather(path.get("/x?text=three"), path.stub.Unary(ask(what="fourth")))
    assert by_http.json() == {"length": 5} and by_grpc.count == 6
    assert path.events("batch") == ["fourth three"]
    threaded = await asyncio.gather(*(path.get(f"/thread?text={text}") for text in ("a", "bb")))
    assert [answer.json()["length"] for answer in threaded] == [1, 2]
    one, other = await asyncio.gather(path.stub.Unary(ask(what="1")), path.stub.Repeat(ask(what="22")))
    assert (one.count, other.count) == (1, 2), "sync methods wait in their thread"
    labels = 'application="default",deployment="Handler",function="Batching.lengths"'
    assert (await path.metrics("mesh_batch_size_sum"))[labels] == 4
    assert (await path.metrics("mesh_batch_wait_seconds_count"))[labels] == 2
    assert (await path.metrics("mesh_batches_running"))[labels] == 0


async def test_one_item_fails_alone(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    good, bad = await asyncio.gather(path.get("/x?text=good"), path.get("/x?text=bad"))
    assert (good.status_code, bad.status_code) == (200, 500)
    assert "a bad item" in path.replica.log and "a bad item" not in bad.text


async def test_each_reads_a_stream_of_its_own(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    long, short = await asyncio.gather(path.get("/spell?text=abcd"), path.get("/spell?text=xy"))
    assert (long.text, short.text) == ("a.b.c.d.", "x.y.")


async def test_who_hangs_up_disturbs_nobody_and_the_last_ends_the_batch(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    calls = [asyncio.ensure_future(path.get(f"/x?text={text}")) for text in ("wait", "stays")]
    await path.until_event("batch stays wait")
    await finish(calls[0])
    path.open("batch")
    assert (await calls[1]).json() == {"length": 5}
    (path.directory / "open-batch").unlink()
    calls = [asyncio.ensure_future(path.get(f"/x?text={text}")) for text in ("wait", "also")]
    await path.until_event("batch also wait")
    for call in calls:
        await finish(call)
    await path.until_event("batch cancelled")
    await path.until_free()


async def test_a_deadline_sends_a_batch_that_is_not_full(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    # The first takes no time, and its batch goes long before its deadline. That leaves most of it to a slow machine.
    answered = await path.get("/x?text=alone", headers={"x-request-timeout-seconds": "2"})
    assert answered.status_code in (200, 504) and path.events("batch") in (["alone"], [])


async def test_reconfigure_changes_what_waits(path: ModelPath) -> None:
    await path.start("batching")
    await path.serve_all()
    waits = asyncio.ensure_future(path.get("/x?text=waits"))
    await path.until_running(1)
    await path.replica.configure(user_config_json='{"size": 1}')
    assert (await waits).json() == {"length": 5}


@pytest.mark.parametrize("application", ["batched_handler", "function"])
async def test_whole_requests_are_batched(path: ModelPath, application: str) -> None:
    await path.start(application)
    await path.serve_all(servicer=False)
    answers = await asyncio.gather(path.get("/one"), path.get("/two"))
    assert [answer.json()["together"] for answer in answers] == [2, 2]


async def test_calls_go_where_their_model_is(path: ModelPath) -> None:
    """Two replicas with three models each, six models asked for in an order that shares nothing with where they are."""
    for _ in range(2):
        await path.start("multiplexing")
    await path.serve_all()
    order = [f"m{(i * i + i // 6) % 6}" for i in range(60)] + [f"m{i % 6}" for i in range(60)]
    places: dict[str, Counter[int]] = {}
    for i, model_id in enumerate(order):
        if i % 2:
            told = await path.stub.Unary(ask(), metadata=(("x-mesh-model-id", model_id),))
            said, pid = told.text, told.count
        else:
            answer = (await path.get("/", headers={"x-mesh-model-id": model_id})).json()
            said, pid = answer["model"], answer["pid"]
        assert said == model_id
        places.setdefault(model_id, Counter())[pid] += 1
    loads = path.events("load")
    assert len(loads) <= 10, f"each about once: {loads}"
    hits = sum([(await path.metrics("mesh_model_requests_total", i)).get(LABELS + ',result="hit"', 0) for i in (0, 1)])
    assert hits >= 110
    loaded = [(await path.metrics("mesh_models_loaded", i))[LABELS] for i in (0, 1)]
    assert all(count <= 3 for count in loaded) and sum(loaded) == len(loads) - len(path.events("unload"))


LABELS = 'application="default",deployment="Handler"'


async def test_a_busy_replica_is_not_waited_for(path: ModelPath) -> None:
    for _ in range(2):
        await path.start("multiplexing", ongoing=1)
    await path.serve_all(ongoing=1, queued=20)
    headers = {"x-mesh-model-id": "hot"}
    answers = await asyncio.gather(*(path.get("/", headers=headers) for _ in range(12)))
    assert all(answer.json()["model"] == "hot" for answer in answers)
    assert len(path.events("load")) <= 2


async def test_how_a_model_is_named(path: ModelPath) -> None:
    await path.start("multiplexing")
    await path.serve_all()
    for name in ("x-mesh-model-id", "serve_multiplexed_model_id", "serve-multiplexed-model-id"):
        assert (await path.get("/", headers={name: "org/model:v1"})).json()["model"] == "org/model:v1"
    assert (await path.get("/")).json()["model"] == "default"
    told = await path.stub.Unary(ask(), metadata=(("multiplexed_model_id", "org/model:v1"),))
    assert told.text == "org/model:v1"
    rest = await path.post("/native.v1.Probe/Unary", json={}, headers={"x-mesh-model-id": "by-rest"})
    assert rest.json()["text"] == "by-rest"
    assert path.events("load") == ["org/model:v1", "default", "by-rest"]


@pytest.mark.parametrize("model_id", ["a b", "x" * 201, "../secret", "/etc/passwd", "a/../../b", "<x>", "ü"])
async def test_ids_that_are_none_are_refused(path: ModelPath, model_id: str) -> None:
    await path.start("multiplexing")
    await path.serve_all()
    answer = await path.get("/", headers={"x-mesh-model-id": model_id.encode()})
    assert answer.status_code == 400 and "x-mesh-model-id" in answer.text
    if model_id.isascii():
        error = await refused(path.stub.Unary(ask(), metadata=(("x-mesh-model-id", model_id),)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert path.events("load") == []


async def test_a_failed_load_is_not_kept(path: ModelPath) -> None:
    await path.start("multiplexing")
    await path.serve_all()
    for _ in range(2):
        assert (await path.get("/", headers={"x-mesh-model-id": "missing"})).status_code == 500
    assert path.events("load") == ["missing", "missing"]
    assert (await path.metrics("mesh_model_loads_total"))[LABELS + ',outcome="error"'] == 2


@mesh.deployment
class Child:
    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=600.0)
    async def lengths(self, texts: list[str]) -> list[Any]:
        return [[len(texts), mesh.get_multiplexed_model_id(), text] for text in texts]


@mesh.deployment
class Parent:
    def __init__(self, child: Any) -> None:
        self.child = child

    async def __call__(self) -> Any:
        of = [self.child.options(multiplexed_model_id=each).lengths for each in ("a", "b")]
        return await asyncio.gather(*(of[i % 2].remote(str(i)) for i in range(4)))


async def test_calls_by_handles_share_a_batch_and_name_models() -> None:
    bound = Parent.bind(Child.bind())  # type: ignore[attr-defined]
    async with testing.in_process(bound) as served, httpx.AsyncClient(timeout=30) as client:
        assert (await client.get(served.http)).json() == [[2, "a", "0"], [2, "b", "1"], [2, "a", "2"], [2, "b", "3"]]
        with pytest.raises(ValueError, match="multiplexed_model_id must be of letters"):
            served.handle("Child").options(multiplexed_model_id="a b")
