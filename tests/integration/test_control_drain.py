"""When the control plane stops replicas: once gateways have let go of them, and once others stand in for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from mesh.v1 import deployment_pb2
from mesh.v1.deployment_service_pb2 import DrainWorkerRequest, GetStatusRequest
from tests.integration.test_control_plane import PATIENT, Api, Fixture, application, mesh, refused
from tests.support.scripted_peers import WAIT_S, ScriptedWorker

__all__ = ["mesh"]


async def drain(api: Api, worker_id: str, *, undo: bool = False) -> None:
    await api.stub.DrainWorker(DrainWorkerRequest(worker_id=worker_id, undo=undo), timeout=WAIT_S)


async def until_worker(api: Api, worker_id: str, state: str) -> deployment_pb2.WorkerStatus:
    number = deployment_pb2.WorkerState.Value(f"WORKER_STATE_{state}")
    status = await api.until(lambda s: any((w.worker_id, w.state) == (worker_id, number) for w in s.workers))
    return next(worker for worker in status.workers if worker.worker_id == worker_id)


async def two_workers(mesh: Fixture, *, max_replicas: int = 100) -> tuple[Api, ScriptedWorker, ScriptedWorker]:
    """A control plane, two workers and an application of two replicas, one on each."""
    control, api = await mesh.control()
    one = await mesh.worker("w1", control, max_replicas=max_replicas)
    two = await mesh.worker("w2", control, max_replicas=max_replicas)
    await api.apply(application(num_replicas=2))
    await api.until_state("app", "RUNNING")
    assert (len(one.ready("app")), len(two.ready("app"))) == (1, 1)
    return api, one, two


async def test_a_replica_is_stopped_once_every_gateway_routes_without_it(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker = await mesh.worker("w1", control)
    quick, slow = await mesh.gateway("quick", control), await mesh.gateway("slow", control)
    await api.apply(application(num_replicas=2))
    await slow.until(lambda: len(slow.endpoints("app")) == 2)
    both = set(worker.replicas)
    slow.routes.clear()
    await api.apply(application(num_replicas=1))
    await slow.until(lambda: len(slow.endpoints("app")) == 1)
    await quick.until(lambda: len(quick.endpoints("app")) == 1)
    (kept,) = slow.endpoints("app")
    await worker.until(lambda: worker.withdrawn == both - {kept})
    assert set(worker.replicas) == both, "it serves on until the slow one has let go of it"
    slow.routes.set()
    await worker.until(lambda: set(worker.replicas) == {kept})
    assert worker.starts == sorted(both, key=worker.starts.index)


async def test_a_gateway_that_is_gone_or_hangs_holds_nothing_up(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker = await mesh.worker("w1", control)
    gone, hangs = await mesh.gateway("gone", control), await mesh.gateway("hangs", control)
    await api.apply(application(num_replicas=3))
    await gone.until(lambda: len(gone.endpoints("app")) == 3)
    gone.routes.clear()
    await api.apply(application(num_replicas=2))
    await worker.until(lambda: len(worker.withdrawn) == 1)
    await gone.disconnect()
    await worker.until(lambda: len(worker.replicas) == 2)
    hangs.routes.clear()
    await api.apply(application(num_replicas=1))
    await worker.until(lambda: len(worker.withdrawn) == 1)
    await worker.until(lambda: len(worker.replicas) == 1)
    assert not hangs.routes.is_set()


async def test_a_new_leader_waits_for_gateways_as_well(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    worker, gateway = await mesh.worker("w1", first), await mesh.gateway("g1", first)
    await api.apply(application(num_replicas=2))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    gateway.routes.clear()
    await api.apply(application(num_replicas=1))
    await worker.until(lambda: len(worker.withdrawn) == 1)
    await first.drain()
    await first.stop()
    gateway.routes.set()
    generation = worker.generations[-1]
    await mesh.control(replace(settings, port=int(first.address.rpartition(":")[2])))
    await worker.until(lambda: worker.generations[-1].epoch > generation.epoch)
    assert len(worker.replicas) == 2, "a gateway that has not come yet may still call it"
    await worker.until(lambda: len(worker.replicas) == 1)
    assert len(worker.starts) == 2


async def test_a_drained_worker_is_emptied_once_others_stand_in(mesh: Fixture) -> None:
    api, one, two = await two_workers(mesh)
    two.slow.add("m:app")
    await drain(api, "w1")
    await two.until(lambda: len(two.replicas) == 2)
    assert (await until_worker(api, "w1", "DRAINING")).message == "1 replica is left"
    assert len(one.ready("app")) == 1
    await two.mend("m:app")
    await one.until(lambda: not one.replicas)
    await until_worker(api, "w1", "DRAINED")
    assert len(two.ready("app")) == 2
    await api.apply(application(num_replicas=4))
    await two.until(lambda: len(two.replicas) == 4)
    assert not one.replicas
    await drain(api, "w1", undo=True)
    await drain(api, "w1", undo=True)
    await until_worker(api, "w1", "READY")
    await api.apply(application(num_replicas=5))
    await one.until(lambda: len(one.replicas) == 1)


async def test_a_drain_is_kept_over_restarts(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    one, two = await mesh.worker("w1", first), await mesh.worker("w2", first)
    await drain(api, "w1")
    await drain(api, "w1")
    epoch = one.generations[-1].epoch
    await first.drain()
    await first.stop()
    await api.channel.close()  # its pauses would be those of the next
    _, api = await mesh.control(replace(settings, port=int(first.address.rpartition(":")[2])))
    await one.until(lambda: one.generations[-1].epoch > epoch)
    await until_worker(api, "w1", "DRAINED")
    await until_worker(api, "w2", "READY")
    await api.apply(application(num_replicas=2))
    await two.until(lambda: len(two.ready("app")) == 2)
    assert not one.replicas


async def test_a_worker_that_is_told_to_end_learns_whether_there_is_room_elsewhere(mesh: Fixture) -> None:
    api, one, two = await two_workers(mesh, max_replicas=2)
    await two.drain()
    await two.until(lambda: not two.replicas)
    assert not two.no_room_elsewhere
    await one.drain()
    await one.until(lambda: one.no_room_elsewhere)
    assert len(one.ready("app")) == 2
    worker = await until_worker(api, "w1", "DRAINING")
    assert worker.message == "2 replicas are left; no worker has room: all 2 are draining"
    status = (await api.stub.GetStatus(GetStatusRequest(), timeout=WAIT_S)).status
    assert "stay on a worker that drains" in status.applications[0].message


@pytest.mark.parametrize("undo", [False, True])
async def test_an_unknown_worker_is_not_found(mesh: Fixture, undo: bool) -> None:
    control, api = await mesh.control()
    await mesh.worker("gpu-1", control)
    async with refused(grpc.StatusCode.NOT_FOUND, "did you mean 'gpu-1'"):
        await drain(api, "gpu-2", undo=undo)
