"""Events and reasons of a real control plane, with scripted workers and gateways over real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.cli.client import Client
from mesh.clock import SYSTEM
from mesh.controlplane.actions import Action
from mesh.controlplane.execute import Executor
from mesh.controlplane.registry import Registry
from mesh.controlplane.server import ControlPlane
from mesh.credentials import OPEN
from mesh.errors import NotFound
from mesh.model import Failure, ReplicaState
from mesh.reasons import Reason
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2, event_pb2, event_service_pb2
from mesh.v1.event_service_pb2_grpc import EventServiceStub
from tests.integration.test_control_plane import Fixture, application
from tests.support.scripted_peers import WAIT_S, ScriptedWorker

PATIENT = ControlPlaneSettings(port=0, heartbeat_interval_s=0.5, worker_grace_s=60.0)
QUICK = replace(PATIENT, heartbeat_interval_s=0.2, worker_grace_s=0.5, takeover_grace_s=0.5)
"""Losing a worker is what the test is about."""
BOOM = Failure("exited with code 7; it printed last: out of luck", reason=Reason.CRASHED)


@pytest.fixture
async def mesh() -> AsyncIterator[Fixture]:
    async with AsyncExitStack() as stack:
        yield Fixture(stack)


class Watch:
    """One WatchEvents stream, read to the end by each wait."""

    def __init__(self, address: str, **wanted: Any) -> None:
        self.events: dict[int, event_pb2.Event] = {}
        self._channel = grpc.aio.insecure_channel(address)
        request = event_service_pb2.WatchEventsRequest(filter=event_service_pb2.EventFilter(**wanted))
        self._call = EventServiceStub(self._channel).WatchEvents(request)

    async def until(self, condition: Callable[[Sequence[event_pb2.Event]], object]) -> list[event_pb2.Event]:
        """Read until the condition holds of all that was sent, in order."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition(list(self.events.values())):
                    response: Any = await self._call.read()
                    self.events |= {event.sequence: event for event in response.events}
        except TimeoutError:
            raise AssertionError(f"not told of it: {names(list(self.events.values()))}") from None
        return list(self.events.values())

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


def names(events: Sequence[event_pb2.Event]) -> list[str]:
    return [event_pb2.EventReason.Name(event.reason).removeprefix("EVENT_REASON_") for event in events]


def having(*reasons: str) -> Callable[[Sequence[event_pb2.Event]], bool]:
    return lambda events: set(reasons) <= set(names(events))


async def listed(address: str, **wanted: Any) -> list[event_pb2.Event]:
    async with grpc.aio.insecure_channel(address) as channel:
        request = event_service_pb2.ListEventsRequest(filter=event_service_pb2.EventFilter(**wanted))
        return list((await EventServiceStub(channel).ListEvents(request, timeout=WAIT_S)).events)


async def started(mesh: Fixture, settings: ControlPlaneSettings = PATIENT) -> tuple[ControlPlane, ScriptedWorker]:
    """Run an application to its first SERVING."""
    control, api = await mesh.control(settings)
    worker = await mesh.worker("w1", control)
    await api.apply(application())
    await api.until_state("app", "RUNNING")
    return control, worker


async def test_a_deploy_and_a_crash_are_told_as_they_happen(mesh: Fixture) -> None:
    control, worker = await started(mesh)
    watch = Watch(control.address, application="app")
    events = await watch.until(having("SERVING"))
    assert names(events) == ["APPLIED", "BUILDING", "BUILT", "PLACED", "READY", "SERVING"]
    assert all(event.application == "app" and event.first_at > 0 for event in events)
    (replica_id,) = worker.replicas
    failed = {"last_failure": BOOM, "failure": BOOM, "reason": Reason.CRASH_LOOP, "message": BOOM.message}
    await worker.change(replica_id, state=ReplicaState.BACKOFF, crashes=1, **failed)
    crashed = (await watch.until(having("CRASHED")))[-1]
    assert (crashed.replica_id, crashed.message) == (replica_id, BOOM.message)
    assert crashed.severity == event_pb2.SEVERITY_WARNING
    await worker.change(replica_id, state=ReplicaState.READY, reason=Reason.READY, message="")
    again = await watch.until(lambda events: names(events).count("READY") == 2)
    assert again[-1].count == 2
    await watch.close()


async def test_a_worker_that_goes_politely_is_not_lost(mesh: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it goes between two looks, while what the leader decided is written."""
    control, _ = await started(mesh)
    other = await mesh.worker("w2", control)
    gone, disconnected, execute = asyncio.Event(), Registry.disconnected, Executor.execute

    def ended(self: Registry, worker_id: str, session: int, *, now: float) -> None:
        disconnected(self, worker_id, session, now=now)
        if worker_id == "w2":
            gone.set()

    async def slow(self: Executor, actions: Sequence[Action], *, now: float) -> None:
        if not gone.is_set():
            await other.leave()
            async with asyncio.timeout(WAIT_S):
                await gone.wait()
        await execute(self, actions, now=now)

    monkeypatch.setattr(Registry, "disconnected", ended)
    monkeypatch.setattr(Executor, "execute", slow)
    watch = Watch(control.address)
    await other.drain()
    events = await watch.until(lambda events: {"LEFT", "LOST"} & set(names(events)))
    assert [e.worker_id for e in events if names([e]) == ["LEFT"]] == ["w2"]
    await watch.close()


async def test_filters_and_what_belongs_to_no_application(mesh: Fixture) -> None:
    control, worker = await started(mesh)
    await mesh.gateway("g1", control)
    watch = Watch(control.address)
    await watch.until(lambda events: any(event.gateway_id == "g1" for event in events))
    await watch.close()
    everything = await listed(control.address)
    assert names([e for e in everything if not e.application]) == ["LEADER_CHANGED", "CONNECTED", "CONNECTED"]
    assert control.address in everything[0].message
    (replica_id,) = worker.replicas
    assert names(await listed(control.address, replica_id=replica_id)) == ["PLACED", "READY"]
    assert names(await listed(control.address, worker_id="w1", application="app")) == ["BUILDING", "PLACED", "READY"]
    assert await listed(control.address, severity=event_pb2.SEVERITY_WARNING) == []
    assert await listed(control.address, since=SYSTEM.wall() + 60) == []
    last = everything[-1]
    assert await listed(control.address, after=last.sequence) == []


async def test_a_lost_worker_is_told_of_and_is_the_reason(mesh: Fixture) -> None:
    control, api = await mesh.control(QUICK)
    first = await mesh.worker("w1", control)
    await api.apply(application())
    await api.until_state("app", "RUNNING")
    second = await mesh.worker("w2", control)
    second.slow.add("m:app")
    await first.disconnect()
    watch = Watch(control.address)
    events = await watch.until(having("DISCONNECTED", "LOST"))
    assert [e.worker_id for e in events if names([e])[0] in ("DISCONNECTED", "LOST")] == ["w1", "w1"]
    await watch.close()
    status = await api.until(
        lambda status: any(a.reason == deployment_pb2.REASON_WORKER_LOST for a in status.applications)
    )
    assert status.applications[0].deployments[0].reason == deployment_pb2.REASON_WORKER_LOST


async def is_stored(control: ControlPlane, events: Sequence[event_pb2.Event]) -> bool:
    store = control._store
    item = await store.get("events/app") if store is not None else None
    return item is not None and list(event_pb2.EventLog.FromString(item.value).events) == list(events)


async def test_events_outlive_a_change_of_leader(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    control, _ = await started(mesh, settings)
    before = await listed(control.address, application="app")
    async with asyncio.timeout(WAIT_S):
        while not await is_stored(control, before):
            await asyncio.sleep(0.02)
    await control.drain()
    await control.stop()
    successor, api = await mesh.control(settings)
    after = await listed(successor.address, application="app")
    assert after[: len(before)] == before
    assert after[len(before) :] == [], "nothing is told twice"
    leaders = await listed(successor.address)
    assert successor.address in [e for e in leaders if names([e]) == ["LEADER_CHANGED"]][-1].message
    worker = await mesh.worker("w2", successor)
    worker.broken["m:bad"] = "ValueError: no"
    await api.apply(application(code="m:bad"))
    watch = Watch(successor.address, application="app", after=before[-1].sequence)
    events = await watch.until(having("APPLIED"))
    assert "SERVING" not in names(events), "older ones are not sent again"
    assert events[0].sequence > before[-1].sequence
    await watch.close()


async def test_the_log_of_a_deleted_application_stays(mesh: Fixture) -> None:
    control, _ = await started(mesh)
    async with Client([control.address], OPEN) as client:
        await client.delete("app")
        watch = Watch(control.address, application="app")
        events = await watch.until(having("DELETED"))
        assert names(events)[-1] == "DELETED"
        await watch.close()
        with pytest.raises(NotFound):
            await client.status("app")


async def test_a_status_has_details_for_those_who_ask(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    await api.apply(application(max_queued_requests=7))
    await api.until_state("app", "RUNNING")
    async with Client([control.address], OPEN) as client:
        plain = (await client.status("app")).applications[0]
        assert not plain.last_events and not plain.deployments[0].HasField("settings")
        status = await client.status("app", details=True)
    (shown,) = status.applications
    assert names(shown.last_events)[-1] == "SERVING" and len(shown.last_events) == 5
    (echo,) = shown.deployments
    assert (echo.settings.max_queued_requests, list(echo.configured)) == (7, ["max_queued_requests"])
    assert echo.ingress
    assert names(echo.replicas[0].last_events) == ["PLACED", "READY"]
    assert names(status.workers[0].last_events) == ["CONNECTED"]
    assert shown.reason == deployment_pb2.REASON_READY
