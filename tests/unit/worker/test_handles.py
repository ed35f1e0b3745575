"""What a process's calls by handle are bounded by, and which arguments are refused at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.clock import Clock
from mesh.credentials import OPEN
from mesh.errors import EncodingFailed, Unavailable
from mesh.serving.handle import Callee, DeploymentResponse
from mesh.telemetry import REGISTRY
from mesh.worker import handles as module
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
