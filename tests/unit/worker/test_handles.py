"""What a process's calls by handle are bounded by, and which arguments are refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.clock import Clock
from mesh.credentials import OPEN
from mesh.errors import EncodingFailed, Unavailable
from mesh.pipe.messages import framed
from mesh.serving.handle import Callee, DeploymentResponse, DeploymentResponseStream
from mesh.telemetry import REGISTRY
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker import handles as module
from mesh.worker.call_errors import RETURNED, YIELDED
from mesh.worker.handles import Handles


@pytest.fixture
async def handles() -> AsyncIterator[Handles]:
    made = Handles("caller", (), OPEN, Clock())
    yield made
    await made.close()


async def test_names_that_are_too_many_are_refused_and_leave_nothing(
    handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEPLOYMENTS_MAX", 2)
    for name in ("A", "B"):
        handles.reach("many", name)
    for name in ("C", "D"):
        flight = handles.call(Callee("many", name), (), {})
        with pytest.raises(Unavailable, match=f"'{name}' of application 'many': this process calls more than 2"):
            await flight.outcome()
    told = [sample.labels for metric in REGISTRY.collect() for sample in metric.samples if sample.value == 0]
    assert {labels["deployment"] for labels in told if labels.get("application") == "many"} == {"A", "B"}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_comes_as_its_reader_is_cancelled_breaks_nothing(handles: Handles, stream: bool) -> None:
    callee = Callee("app", "A")._replace(stream=stream)
    flight: Any = handles.call(callee, (), {})
    response: Any = (DeploymentResponseStream if stream else DeploymentResponse)(flight, callee)

    async def read() -> None:
        await (anext(response) if stream else response)

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    reader.cancel()
    flight.answered(pb.Head(status=YIELDED if stream else RETURNED, data=framed(b"\0\1"), end=not stream))
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert flight.done()


async def test_arguments_that_contain_themselves_cannot_travel(handles: Handles) -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(EncodingFailed, match="contains itself"):
        handles.call(Callee("app", "A"), (itself,), {})
    response = DeploymentResponse(handles.call(Callee("app", "A"), (), {}), Callee("app", "A"))
    flight = handles.call(Callee("app", "A"), (itself, response), {})
    with pytest.raises(EncodingFailed, match="containing itself"):
        await flight.outcome()
    response.cancel()
