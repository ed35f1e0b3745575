"""The control plane as a server: real store, real gRPC, scripted workers and gateways over real streams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from mesh.cli.client import Client
from mesh.clock import SYSTEM
from mesh.controlplane.publish import FAILED
from mesh.controlplane.server import ControlPlane
from mesh.credentials import OPEN
from mesh.errors import Conflict, InvalidConfig, Unreachable
from mesh.lifecycle import Tasks
from mesh.model import BuiltDeployment, DeploymentConfig, Interface, JsonOptions, ReplicaState
from mesh.security import Security
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2, deployment_service_pb2, discovery_service_pb2, worker_service_pb2
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from mesh.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.support.etcd import EtcdCluster
from tests.support.interfaces import SERVICE, interface
from tests.support.scripted_peers import WAIT_S, ScriptedGateway, ScriptedWorker

QUICK = ControlPlaneSettings(port=0, heartbeat_interval_s=0.2, worker_grace_s=0.5, takeover_grace_s=0.5)
"""Losing a worker is what the test is about."""
PATIENT = ControlPlaneSettings(port=0, heartbeat_interval_s=0.5, worker_grace_s=60.0)
"""Losing a worker would be a fault."""

BUILDS = deployment_service_pb2


class Api:
    """The deployment API at one address."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.stub = DeploymentServiceStub(self.channel)

    async def apply(self, *applications: deployment_pb2.ApplicationConfig, **fields: Any) -> dict[str, tuple[int, str]]:
        options = fields.pop("options", deployment_pb2.Config())
        config = deployment_pb2.Config(applications=applications)
        config.MergeFrom(options)
        response = await self.stub.Apply(BUILDS.ApplyRequest(config=config, **fields), timeout=WAIT_S)
        names = deployment_service_pb2.Change.Name
        return {a.name: (a.revision, names(a.change).removeprefix("CHANGE_")) for a in response.applications}

    async def config(self, application: str = "") -> deployment_pb2.Config:
        request = BUILDS.GetConfigRequest(application=application)
        return (await self.stub.GetConfig(request, timeout=WAIT_S)).config

    async def status(self) -> deployment_service_pb2.Status:
        return (await self.stub.GetStatus(BUILDS.GetStatusRequest(), timeout=WAIT_S)).status

    async def until(
        self, condition: Callable[[deployment_service_pb2.Status], bool], application: str = ""
    ) -> deployment_service_pb2.Status:
        """Watch until the condition holds."""
        request = BUILDS.WatchStatusRequest(application=application)
        last = None
        try:
            async for response in self.stub.WatchStatus(request, timeout=WAIT_S):
                last = response.status
                if condition(response.status):
                    return last
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"{error.code()}: {error.details()}; last status: {last}") from None
        raise AssertionError(f"the watch ended; last status: {last}")

    async def until_state(self, name: str, state: str, revision: int = 0) -> deployment_pb2.ApplicationStatus:
        def found(status: deployment_service_pb2.Status) -> bool:
            return any(
                a.name == name
                and deployment_pb2.ApplicationState.Name(a.state) == f"APPLICATION_STATE_{state}"
                and a.revision >= revision
                for a in status.applications
            )

        status = await self.until(found)
        return next(a for a in status.applications if a.name == name)


def application(name: str = "app", code: str = "m:app", **echo: Any) -> deployment_pb2.ApplicationConfig:
    config = deployment_pb2.ApplicationConfig(name=name, route_prefix=f"/{name}", import_path=code)
    if echo:
        config.deployments.append(deployment_pb2.DeploymentConfig(name="Echo", **echo))
    return config


class Fixture:
    """Starts control planes, workers and gateways and ends them all in the right order."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def control(self, settings: ControlPlaneSettings = PATIENT) -> tuple[ControlPlane, Api]:
        control = ControlPlane(settings, SYSTEM)
        await control.start()
        self._stack.push_async_callback(control.stop)
        api = Api(control.address)
        self._stack.push_async_callback(api.channel.close)
        return control, api

    async def worker(self, worker_id: str, *controls: ControlPlane, **options: Any) -> ScriptedWorker:
        worker = ScriptedWorker(worker_id, *(control.address for control in controls), **options)
        await self._stack.enter_async_context(worker)
        await worker.until(lambda: worker.connected)
        return worker

    async def gateway(self, gateway_id: str, *controls: ControlPlane) -> ScriptedGateway:
        gateway = ScriptedGateway(gateway_id, *(control.address for control in controls))
        await self._stack.enter_async_context(gateway)
        await gateway.until(lambda: gateway.snapshots)
        return gateway


@pytest.fixture
async def mesh() -> AsyncIterator[Fixture]:
    async with AsyncExitStack() as stack:
        yield Fixture(stack)


@asynccontextmanager
async def refused(code: grpc.StatusCode, text: str = "") -> AsyncIterator[list[grpc.aio.AioRpcError]]:
    errors: list[grpc.aio.AioRpcError] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield errors
    errors.append(caught.value)
    assert caught.value.code() is code, caught.value.details()
    assert text in (caught.value.details() or "")


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.BadRequest, error_details_pb2.ErrorInfo]:
    status = rpc_status.from_call(error)
    assert status is not None
    bad, more = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        for message in (bad, more):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    return bad, more


async def test_deploy_reaches_the_gateway(mesh: Fixture) -> None:
    control, api = await mesh.control()
    assert control.not_ready() == ""
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    assert await api.apply(application(num_replicas=2, max_ongoing_requests=3)) == {"app": (1, "CREATED")}
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    routed = gateway.application("app")
    assert routed is not None
    assert (routed.route_prefix, routed.ingress, routed.failure) == ("/app", "Echo", "")
    assert routed.deployments[0].max_ongoing_requests == 3
    assert sorted(gateway.endpoints("app")) == sorted(worker.ready("app"))
    status = await api.until_state("app", "RUNNING")
    assert (status.revision, status.serving_revision) == (1, 1)
    assert [(d.ready_replicas, d.target_replicas) for d in status.deployments] == [(2, 2)]
    whole = await api.status()
    assert whole.leader == control.address
    assert whole.gateways == 1
    assert [w.worker_id for w in whole.workers] == ["w1"]


async def test_config_reads_back_as_it_was_applied(mesh: Fixture) -> None:
    _, api = await mesh.control()
    given = application(user_config_json='{"b": 1}', request_timeout_s=2.5)
    given.args_json = '{"x": [1, 2]}'
    given.runtime_env.env_vars["A"] = "b"
    given.runtime_env.working_dir = "/srv"
    options = deployment_pb2.Config()
    options.http_options.request_timeout_s = 30.0
    await api.apply(given, application("other"), options=options)
    assert list((await api.config()).applications) == [given, application("other")]
    assert (await api.config()).http_options == options.http_options
    assert list((await api.config("other")).applications) == [application("other")]
    async with refused(grpc.StatusCode.NOT_FOUND, "did you mean 'other'?"):
        await api.config("othr")


async def test_the_same_config_twice_changes_nothing(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application("a"), application("b"))
    await api.until_state("a", "RUNNING")
    await api.until_state("b", "RUNNING")
    starts, generation = list(worker.starts), gateway.generation
    assert await api.apply(application("a"), application("b")) == {"a": (1, "UNCHANGED"), "b": (1, "UNCHANGED")}
    assert await api.apply(application("a"), application("b", max_queued_requests=1)) == {
        "a": (1, "UNCHANGED"),
        "b": (2, "UPDATED"),
    }
    await api.until_state("b", "RUNNING", revision=2)
    assert worker.starts == starts
    assert gateway.generation > generation


async def test_a_light_update_reaches_live_replicas(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application(num_replicas=2))
    await api.until_state("app", "RUNNING")
    before = set(worker.replicas)
    await api.apply(application(num_replicas=3, max_ongoing_requests=9, user_config_json='{"v": 2}'))
    await worker.until(lambda: len(worker.ready("app")) == 3)
    assert before < set(worker.replicas)
    assert {spec.settings.user_config_json for spec in worker.specs.values()} == {'{"v": 2}'}
    await gateway.until(lambda: [d.max_ongoing_requests for d in [gateway.deployment("app")] if d] == [9])
    await api.apply(application(num_replicas=1))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 1)
    await worker.until(lambda: len(worker.replicas) == 1)


async def test_a_new_version_rolls_out_without_a_gap(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application(num_replicas=3))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 3)
    old, from_here = set(worker.replicas), len(gateway.snapshots)
    worker.slow.add("m:new")
    await api.apply(application(code="m:new", num_replicas=3))
    await worker.until(lambda: len(worker.replicas) == 4)
    assert set(gateway.endpoints("app")) == old
    status = await api.until_state("app", "DEPLOYING", revision=2)
    assert status.serving_revision == 1
    await worker.mend("m:new")
    await gateway.until(lambda: len(gateway.endpoints("app")) == 3 and not old & set(gateway.endpoints("app")))
    assert all(
        len(d.endpoints) >= 3 for s in gateway.snapshots[from_here:] for a in s.applications for d in a.deployments
    )
    await worker.until(lambda: not old & set(worker.replicas))
    assert (await api.until_state("app", "RUNNING", revision=2)).serving_revision == 2


async def test_a_build_that_fails_keeps_the_old_revision(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application())
    await api.until_state("app", "RUNNING")
    before, routed = dict(worker.specs), gateway.application("app")
    worker.code["m:bad"] = "ImportError: nothing like this"
    await api.apply(application(code="m:bad"))
    status = await api.until_state("app", "DEPLOY_FAILED", revision=2)
    assert "ImportError" in status.message
    assert status.message.startswith("revision 2 failed and was rolled back to revision 1: ")
    assert status.deployments[0].state == deployment_pb2.DEPLOYMENT_STATE_HEALTHY
    assert worker.specs == before
    assert gateway.application("app") == routed


async def test_a_first_version_that_fails_is_told_to_gateways(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    worker.broken["m:app"] = "ValueError: no"
    await api.apply(application(num_replicas=2))
    failure = await gateway.until(lambda: (a := gateway.application("app")) and a.failure)
    assert failure == FAILED.format("app"), "clients are told nothing of the code"
    await worker.until(lambda: not worker.replicas)
    status = await api.until_state("app", "DEPLOY_FAILED")
    assert status.serving_revision == 0
    assert status.deployments[0].state == deployment_pb2.DEPLOYMENT_STATE_DEPLOY_FAILED
    worker.broken.clear()
    assert await api.apply(application(num_replicas=2)) == {"app": (2, "UPDATED")}
    await api.until_state("app", "RUNNING", revision=2)
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)


async def test_a_new_version_that_fails_to_start_is_withdrawn(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application(num_replicas=2))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    old, from_here = set(gateway.endpoints("app")), len(gateway.snapshots)
    worker.broken["m:bad"] = "ValueError: no"
    await api.apply(application(code="m:bad", num_replicas=2))
    await api.until_state("app", "DEPLOY_FAILED", revision=2)
    await worker.until(lambda: set(worker.replicas) == old)
    for snapshot in gateway.snapshots[from_here:]:
        assert {e.replica_id for a in snapshot.applications for d in a.deployments for e in d.endpoints} == old


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interface(True, (SERVICE,), b"no zlib"), "the packed descriptor set is damaged"),
        (Interface(True, (SERVICE,), bytes(300_000)), "allowed"),
        (interface("/v1/{text"), "the path '/v1/{text'"),
    ],
)
async def test_what_a_worker_says_of_its_services_is_checked(mesh: Fixture, found: Interface, text: str) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    worker.code["m:root"] = [BuiltDeployment(True, DeploymentConfig(name="Echo"), interface("/shop/orders"))]
    worker.code["m:bad"] = [BuiltDeployment(True, DeploymentConfig(name="Echo"), found)]
    root = application("root", "m:root")
    root.route_prefix = "/"
    await api.apply(root, application())
    await api.until_state("root", "RUNNING")
    await api.until_state("app", "RUNNING")
    before = gateway.endpoints("app")
    await api.apply(root, application(code="m:bad"), application("new"))
    status = await api.until_state("app", "DEPLOY_FAILED", revision=2)
    assert text in status.failure.message
    assert status.failure.field == "import_path" and status.failure.hint
    assert status.serving_revision == 1
    await api.until_state("new", "RUNNING")
    assert gateway.endpoints("app") == before
    assert worker.connected and len(worker.builds) == 4


async def test_a_failure_without_end_is_cut(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker = await mesh.worker("w1", control)
    worker.code["m:app"] = "x" * 3_000_000
    await api.apply(application())
    status = await api.until_state("app", "DEPLOY_FAILED")
    assert status.failure.message.startswith("xxx") and len(status.failure.message) <= 1000
    worker.broken["m:other"] = "y" * 3_000_000
    await api.apply(application(code="m:other"))
    status = await api.until_state("app", "DEPLOY_FAILED", revision=2)
    assert "yyy" in status.failure.message and len(status.failure.message) <= 1100


async def test_json_options_reach_the_gateway_without_a_restart(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    code = DeploymentConfig(name="Echo", json=JsonOptions(proto_names=True))
    worker.code["m:app"] = [BuiltDeployment(True, code, interface("/orders"))]
    await api.apply(application())
    await api.until_state("app", "RUNNING")
    starts = list(worker.starts)
    options = deployment_pb2.JsonOptions(emit_defaults=True)
    given = application(json=options)
    await api.apply(given)
    await api.until_state("app", "RUNNING", revision=2)
    both = deployment_pb2.JsonOptions(emit_defaults=True, proto_names=True)
    await gateway.until(lambda: (found := gateway.deployment("app")) is not None and found.json == both)
    assert worker.starts == starts
    assert list((await api.config()).applications) == [given]


async def test_cors_reaches_the_gateway(mesh: Fixture) -> None:
    control, api = await mesh.control()
    gateway = await mesh.gateway("g1", control)
    assert not gateway.snapshots[-1].HasField("cors")

    def options(*origins: str, **fields: Any) -> deployment_pb2.Config:
        cors = deployment_pb2.Cors(allow_origins=origins, **fields)
        return deployment_pb2.Config(http_options=deployment_pb2.HttpOptions(cors=cors))

    await api.apply(options=options("https://a.example", allow_headers=["X-A"]))
    told = deployment_pb2.Cors(
        allow_origins=["https://a.example"], allow_headers=["X-A"], max_age_s=600, allow_credentials=False
    )
    await gateway.until(lambda: gateway.snapshots[-1].cors == told)
    assert (await api.config()).http_options == options("https://a.example", allow_headers=["X-A"]).http_options
    async with refused(grpc.StatusCode.INVALID_ARGUMENT) as errors:
        await api.apply(options=options("*", "x", allow_credentials=True))
    bad, _ = details(errors[0])
    assert [violation.field for violation in bad.field_violations] == [
        "http_options.cors.allow_origins[1]",
        "http_options.cors.allow_credentials",
    ]
    await api.apply(options=options("https://b.example"), keep_others=True)
    await gateway.until(lambda: list(gateway.snapshots[-1].cors.allow_origins) == ["https://b.example"])
    assert not gateway.snapshots[-1].cors.allow_headers
    await api.apply(keep_others=True)
    assert (await api.config()).http_options == options("https://b.example").http_options
    await api.apply()
    await gateway.until(lambda: not gateway.snapshots[-1].HasField("cors"))


async def test_a_crash_takes_the_endpoint_away_and_back(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application())
    await gateway.until(lambda: gateway.endpoints("app"))
    (replica_id,) = worker.replicas
    await worker.change(replica_id, state=ReplicaState.BACKOFF, address="", crashes=1, message="exit code 1")
    await gateway.until(lambda: not gateway.endpoints("app"))
    status = await api.until_state("app", "UNHEALTHY")
    assert "exit code 1" in status.deployments[0].message
    await worker.change(replica_id, state=ReplicaState.READY, address="127.0.0.1:1")
    await gateway.until(lambda: gateway.endpoints("app") == [replica_id])


async def test_a_lost_worker_is_replaced_after_its_grace(mesh: Fixture) -> None:
    control, api = await mesh.control(QUICK)
    gateway = await mesh.gateway("g1", control)
    first, second = await mesh.worker("w1", control), await mesh.worker("w2", control)
    await api.apply(application(num_replicas=2))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    (lost,) = first.replicas
    await first.disconnect()
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2 and lost not in gateway.endpoints("app"))
    assert len(second.ready("app")) == 2
    await api.until(lambda status: [w.worker_id for w in status.workers] == ["w2"])
    first.connect()
    await first.until(lambda: first.connected and not first.replicas)


async def test_a_lost_worker_that_returns_before_its_replacement_is_ready_serves_on(mesh: Fixture) -> None:
    control, api = await mesh.control(QUICK)
    gateway = await mesh.gateway("g1", control)
    first = await mesh.worker("w1", control)
    await api.apply(application())
    await gateway.until(lambda: gateway.endpoints("app"))
    endpoints, from_here = gateway.endpoints("app"), len(gateway.snapshots)
    second = await mesh.worker("w2", control)
    second.slow.add("m:app")
    await first.disconnect()
    await second.until(lambda: second.replicas)
    await api.until(lambda status: [w.worker_id for w in status.workers] == ["w2"])
    assert (await api.status()).applications[0].deployments[0].ready_replicas == 0
    first.connect()
    await second.until(lambda: not second.replicas)
    await first.until(lambda: first.connected and list(first.replicas) == endpoints)
    await api.until_state("app", "RUNNING")
    assert first.starts == endpoints, "it was never started again"
    assert gateway.endpoints("app") == endpoints
    assert len(gateway.snapshots) == from_here, "nothing changed for it"


async def test_a_worker_that_is_away_keeps_its_endpoints(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application())
    await gateway.until(lambda: gateway.endpoints("app"))
    endpoints, generation = gateway.endpoints("app"), gateway.generation
    await worker.disconnect()
    away = deployment_pb2.WORKER_STATE_DISCONNECTED
    await api.until(lambda status: [w.state for w in status.workers] == [away])
    worker.connect()
    await worker.until(lambda: worker.connected and len(worker.generations) > 2)
    await api.until(lambda status: [w.state for w in status.workers] == [deployment_pb2.WORKER_STATE_READY])
    assert gateway.endpoints("app") == endpoints
    assert gateway.generation == generation, "nothing changed for it"
    assert len(worker.starts) == 1


async def test_a_leaving_worker_is_replaced_at_once(mesh: Fixture) -> None:
    control, api = await mesh.control()
    gateway = await mesh.gateway("g1", control)
    first, second = await mesh.worker("w1", control), await mesh.worker("w2", control)
    await api.apply(application(num_replicas=2))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    first.addresses.clear()
    await first.leave()
    await second.until(lambda: len(second.ready("app")) == 2)
    await gateway.until(lambda: sorted(gateway.endpoints("app")) == sorted(second.ready("app")))
    await api.until(lambda status: [w.worker_id for w in status.workers] == ["w2"])


async def test_an_older_process_of_a_worker_is_refused_and_a_newer_one_takes_over(mesh: Fixture) -> None:
    control, _ = await mesh.control()
    first = await mesh.worker("w1", control, started_at=5.0)
    older = ScriptedWorker("w1", control.address, started_at=4.0)
    async with older:
        refusal = await older.refused()
    assert refusal.code() is grpc.StatusCode.ABORTED
    assert "started later" in (refusal.details() or "")
    assert first.connected
    await mesh.worker("w1", control, started_at=6.0)
    taken = await first.refused()
    assert taken.code() is grpc.StatusCode.ABORTED


async def test_a_silent_worker_is_cut(mesh: Fixture) -> None:
    control, api = await mesh.control(QUICK)
    async with grpc.aio.insecure_channel(control.address) as channel:
        call: Any = WorkerServiceStub(channel).Session()
        hello = worker_service_pb2.Hello(worker_id="w1", incarnation="i", started_at=1.0)
        await call.write(worker_service_pb2.SessionRequest(hello=hello))
        with pytest.raises(grpc.aio.AioRpcError, match="nothing was heard"):
            async for _ in call:
                pass
    await api.until(lambda status: not status.workers)


@pytest.mark.parametrize(
    "first",
    [
        worker_service_pb2.SessionRequest(heartbeat=worker_service_pb2.Heartbeat()),
        worker_service_pb2.SessionRequest(hello=worker_service_pb2.Hello(worker_id="no spaces, please")),
        worker_service_pb2.SessionRequest(),
    ],
    ids=["heartbeat", "name", "nothing"],
)
async def test_a_session_starts_with_a_sound_hello(mesh: Fixture, first: worker_service_pb2.SessionRequest) -> None:
    control, _ = await mesh.control()
    async with grpc.aio.insecure_channel(control.address) as channel:
        call: Any = WorkerServiceStub(channel).Session()
        await call.write(first)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_build_moves_to_another_worker_when_its_session_breaks(mesh: Fixture) -> None:
    control, api = await mesh.control()
    first = await mesh.worker("w1", control)
    first.answers_builds = False
    await api.apply(application())
    await first.until(lambda: first.builds)
    second = await mesh.worker("w2", control)
    await first.disconnect()
    await second.until(lambda: second.builds)
    await api.until_state("app", "RUNNING")


async def test_without_workers_status_says_so_and_it_goes_on_when_one_comes(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await api.apply(application(num_replicas=2))
    status = await api.until_state("app", "DEPLOYING")
    assert "no worker is connected" in status.message
    small = await mesh.worker("w1", control, max_replicas=1)
    status_full = await api.until(
        lambda s: any("no worker has room" in d.message for a in s.applications for d in a.deployments)
    )
    assert status_full.applications[0].deployments[0].ready_replicas <= 1
    assert len(small.replicas) == 1
    await mesh.worker("w2", control)
    await api.until_state("app", "RUNNING")


async def test_applications_that_are_not_named_are_deleted_unless_kept(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application("a"), application("b"))
    await gateway.until(lambda: gateway.endpoints("a") and gateway.endpoints("b"))
    assert await api.apply(application("c"), keep_others=True) == {"c": (1, "CREATED")}
    await gateway.until(lambda: gateway.endpoints("c"))
    assert await api.apply(application("c")) == {
        "c": (1, "UNCHANGED"),
        "a": (1, "DELETED"),
        "b": (1, "DELETED"),
    }
    assert [a.name for a in (await api.config()).applications] == ["c"]
    await gateway.until(lambda: gateway.application("a") is None and gateway.application("b") is None)
    await worker.until(lambda: len(worker.replicas) == 1)
    await api.until(lambda status: [a.name for a in status.applications] == ["c"])


async def test_delete_and_shutdown(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker = await mesh.worker("w1", control)
    options = deployment_pb2.Config(http_options=deployment_pb2.HttpOptions(request_timeout_s=3.0))
    await api.apply(application("a"), application("b"), application("c"), options=options)
    await worker.until(lambda: len(worker.replicas) == 3)
    await api.stub.Delete(BUILDS.DeleteRequest(application="a"))
    await api.until(lambda status: [a.name for a in status.applications] == ["b", "c"])
    async with refused(grpc.StatusCode.NOT_FOUND, "there is no application 'a'; known: b, c"):
        await api.stub.Delete(BUILDS.DeleteRequest(application="a"))
    await api.stub.Shutdown(BUILDS.ShutdownRequest())
    await api.until(lambda status: not status.applications)
    await worker.until(lambda: not worker.replicas)
    assert await api.config() == deployment_pb2.Config()
    await api.stub.Shutdown(BUILDS.ShutdownRequest())


async def test_what_is_wrong_is_named_and_changes_nothing(mesh: Fixture) -> None:
    _, api = await mesh.control()
    await api.apply(application("kept"))
    bad = application("a", code="no colon", num_replicas=-1)
    bad.deployments[0].name = "Echo"
    async with refused(grpc.StatusCode.INVALID_ARGUMENT) as errors:
        await api.apply(bad, application("a"))
    request, more = details(errors[0])
    fields = {violation.field for violation in request.field_violations}
    assert fields == {
        "applications[0].import_path",
        "applications[0].deployments[0].num_replicas",
        "applications[1].name",
        "applications[1].route_prefix",
    }
    assert (more.domain, more.reason) == ("mesh", "INVALID_CONFIG")
    assert "give each application a route of its own" in more.metadata.values()
    taken = application("b")
    taken.route_prefix = "/kept"
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "taken by application 'kept'"):
        await api.apply(taken, keep_others=True)
    broken = application("b")
    broken.args_json = "[1"
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "applications[0].args"):
        await api.apply(broken)
    options = deployment_pb2.Config(http_options=deployment_pb2.HttpOptions(port=70000))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "http_options.port"):
        await api.apply(options=options)
    assert list((await api.config()).applications) == [application("kept")]


async def test_validate_only_stores_nothing(mesh: Fixture) -> None:
    _, api = await mesh.control()
    assert await api.apply(application(), validate_only=True) == {"app": (1, "CREATED")}
    assert await api.config() == deployment_pb2.Config()


async def test_many_applications_in_one_apply(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    many = [application(f"a{i:02}") for i in range(40)]
    await api.apply(*many)
    running = deployment_pb2.APPLICATION_STATE_RUNNING
    await api.until(lambda s: len(s.applications) == 40 and all(a.state == running for a in s.applications))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "41 applications in one apply; 40 are allowed"):
        await api.apply(*many, application("more"))


async def test_applies_at_once_do_not_lose_each_other(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    await asyncio.gather(*(api.apply(application(f"a{i}"), keep_others=True) for i in range(12)))
    running = deployment_pb2.APPLICATION_STATE_RUNNING
    await api.until(lambda s: len(s.applications) == 12 and all(a.state == running for a in s.applications))
    clash = application("x"), application("y")
    for config in clash:
        config.route_prefix = "/same"
    results = await asyncio.gather(*(api.apply(c, keep_others=True) for c in clash), return_exceptions=True)
    assert sum(isinstance(result, grpc.aio.AioRpcError) for result in results) == 1


async def test_an_ingress_that_changes_its_route_moves_when_it_can_answer(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker, gateway = await mesh.worker("w1", control), await mesh.gateway("g1", control)
    await api.apply(application())
    await gateway.until(lambda: gateway.endpoints("app"))
    moved = application(code="m:new")
    moved.route_prefix = "/elsewhere"
    worker.code["m:new"] = [BuiltDeployment(True, DeploymentConfig(name="Front"))]
    worker.slow.add("m:new")
    await api.apply(moved)
    await worker.until(lambda: len(worker.replicas) == 2)
    routed = gateway.application("app")
    assert routed is not None
    assert (routed.route_prefix, routed.ingress) == ("/app", "Echo")
    await worker.mend("m:new")
    await gateway.until(lambda: (a := gateway.application("app")) and (a.route_prefix, a.ingress))
    await gateway.until(lambda: (a := gateway.application("app")) and a.ingress == "Front")
    routed = gateway.application("app")
    assert routed is not None
    assert routed.route_prefix == "/elsewhere"
    await worker.until(lambda: len(worker.replicas) == 1)


async def test_a_restart_keeps_everything(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    worker, gateway = await mesh.worker("w1", first), await mesh.gateway("g1", first)
    await api.apply(application(num_replicas=3), application("other"))
    await api.until_state("app", "RUNNING")
    await api.until_state("other", "RUNNING")
    await gateway.until(lambda: len(gateway.endpoints("app")) == 3)
    endpoints, starts, generation = set(gateway.endpoints("app")), list(worker.starts), gateway.generation
    from_here = len(gateway.snapshots)
    await first.drain()
    await first.stop()
    port = int(first.address.rpartition(":")[2])
    second, api = await mesh.control(replace(settings, port=port))
    await gateway.until(lambda: gateway.generation.epoch > generation.epoch)
    await worker.until(lambda: worker.generations[-1].epoch > generation.epoch)
    await api.until(lambda status: [w.state for w in status.workers] == [deployment_pb2.WORKER_STATE_READY])
    await api.until_state("app", "RUNNING")
    assert worker.starts == starts
    for snapshot in gateway.snapshots[from_here:]:
        found = {e.replica_id for a in snapshot.applications for d in a.deployments for e in d.endpoints}
        assert endpoints <= found
    assert await api.apply(application(num_replicas=3), application("other")) == {
        "app": (1, "UNCHANGED"),
        "other": (1, "UNCHANGED"),
    }
    assert second.address == first.address


@pytest.mark.parametrize("comes_true", [True, False])
async def test_an_apply_takes_away_last_also_across_a_restart(mesh: Fixture, tmp_path: Path, comes_true: bool) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    worker, gateway = await mesh.worker("w1", first), await mesh.gateway("g1", first)
    await api.apply(application("old"))
    await api.until_state("old", "RUNNING")
    await gateway.until(lambda: gateway.endpoints("old"))
    served = gateway.endpoints("old")
    new = application("new")
    new.route_prefix, new.import_path = "/old", "m:new"
    worker.slow.add("m:new")
    assert await api.apply(new) == {"new": (1, "CREATED"), "old": (1, "DELETED")}
    await worker.until(lambda: len(worker.replicas) == 2)
    status = await api.status()
    assert {a.name: a.leaving for a in status.applications} == {"new": False, "old": True}
    assert [a.name for a in (await api.config()).applications] == ["new"]
    epoch = gateway.generation.epoch
    await first.drain()
    await first.stop()
    _, api = await mesh.control(replace(settings, port=int(first.address.rpartition(":")[2])))
    await gateway.until(lambda: gateway.generation.epoch > epoch)
    await worker.until(lambda: worker.generations[-1].epoch > epoch)
    before = len(gateway.snapshots)
    if comes_true:
        await worker.mend("m:new")
        await api.until(lambda status: [a.name for a in status.applications] == ["new"])
        await gateway.until(lambda: gateway.endpoints("new") and not gateway.application("old"))
    else:
        worker.broken["m:new"] = "ValueError: no"
        await worker.mend("m:new")
        await api.until_state("new", "DEPLOY_FAILED")
        await api.until(lambda status: not any(a.leaving for a in status.applications))
        await gateway.until(lambda: (routed := gateway.application("new")) and routed.failure)
        assert gateway.endpoints("old") == served
        assert list((await api.config()).applications) == [application("old")], "what serves on is the goal again"
        async with refused(grpc.StatusCode.NOT_FOUND, "application 'new' is no part of the goal: it failed"):
            await api.config("new")
        await api.stub.Delete(BUILDS.DeleteRequest(application="new"))
        await api.until(lambda status: [a.name for a in status.applications] == ["old"])
        assert list((await api.config()).applications) == [application("old")]
    for snapshot in gateway.snapshots[before:]:
        (holder,) = (a for a in snapshot.applications if a.route_prefix == "/old")
        assert any(d.endpoints for d in holder.deployments)


async def test_a_build_that_is_overtaken_is_cancelled(mesh: Fixture) -> None:
    control, api = await mesh.control()
    worker = await mesh.worker("w1", control)
    worker.answers_builds = False
    await api.apply(application("a"), application("b"))
    await worker.until(lambda: len(worker.builds) == 2)
    worker.answers_builds = True
    await api.apply(application("a", code="m:newer"), application("b", code="m:newer"), supersede=True)
    await api.until_state("a", "RUNNING", revision=2)
    await api.until_state("b", "RUNNING", revision=2)
    assert sorted(worker.cancelled) == sorted(build.build_id for build in worker.builds[:2])


async def test_after_a_restart_a_worker_that_never_comes_is_given_up(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    lost = await mesh.worker("w1", first)
    await api.apply(application())
    await api.until_state("app", "RUNNING")
    await lost.disconnect()
    await first.stop()
    second, _ = await mesh.control(replace(settings, worker_grace_s=0.3, takeover_grace_s=0.3))
    gateway = await mesh.gateway("g1", second)
    assert gateway.endpoints("app") == list(lost.replicas), "the first snapshot has what was stored"
    worker = await mesh.worker("w2", second)
    await gateway.until(lambda: gateway.endpoints("app") and gateway.endpoints("app") == worker.ready("app"))


async def test_a_slow_watcher_gets_the_newest_status(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    call: Any = api.stub.WatchStatus(BUILDS.WatchStatusRequest())
    first = await call.read()
    assert not first.status.applications
    for i in range(20):
        await api.apply(application(f"a{i:02}"), keep_others=True)
    messages = 0
    while True:
        messages += 1
        response = await call.read()
        states = [a.state for a in response.status.applications]
        if len(states) == 20 and set(states) == {deployment_pb2.APPLICATION_STATE_RUNNING}:
            break
    assert messages < 60
    call.cancel()
    async with refused(grpc.StatusCode.NOT_FOUND):
        await api.stub.WatchStatus(BUILDS.WatchStatusRequest(application="nobody")).read()


async def test_a_port_in_use_is_a_conflict(mesh: Fixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        control = ControlPlane(replace(PATIENT, port=taken.getsockname()[1]), SYSTEM)
        with pytest.raises(Conflict) as caught:
            await control.start()
        assert "--control-port" in caught.value.hint
        await control.stop()
    first, _ = await mesh.control()
    with pytest.raises(Conflict):
        await ControlPlane(replace(PATIENT, port=int(first.address.rpartition(":")[2])), SYSTEM).start()


async def test_an_address_of_another_machine_is_refused() -> None:
    control = ControlPlane(replace(PATIENT, host="192.0.2.1", security=Security(insecure=True)), SYSTEM)
    with pytest.raises(InvalidConfig, match=r"192\.0\.2\.1"):
        await control.start()
    await control.stop()


@pytest.mark.parametrize("store", ["mysql://x", "sqlite://", "etcd://", ""])
async def test_a_store_that_is_not_one_is_refused(store: str) -> None:
    control = ControlPlane(replace(PATIENT, store=store), SYSTEM)
    with pytest.raises(InvalidConfig, match="does not name a store"):
        await control.start()
    await control.stop()


async def test_a_store_in_use_is_a_conflict_and_leaves_nothing_behind(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, _ = await mesh.control(settings)
    second = ControlPlane(settings, SYSTEM)
    with pytest.raises(Conflict):
        await second.start()
    await first.stop()
    third, _ = await mesh.control(settings)
    assert third.not_ready() == ""


async def test_health_follows_the_life_of_the_server(mesh: Fixture) -> None:
    control, api = await mesh.control()
    health = health_pb2_grpc.HealthStub(api.channel)
    request = health_pb2.HealthCheckRequest(service="mesh.v1.DeploymentService")
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    await control.drain()
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert control.not_ready() == "no control plane leads now"
    await control.stop()
    await control.stop()


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def etcd_settings(etcd: EtcdCluster, request: pytest.FixtureRequest) -> ControlPlaneSettings:
    store = f"etcd://{','.join(etcd.endpoints)}/{request.node.name}"
    return replace(PATIENT, store=store)


async def test_another_instance_takes_over(mesh: Fixture, etcd_settings: ControlPlaneSettings) -> None:
    first, api = await mesh.control(etcd_settings)
    second, _ = await mesh.control(etcd_settings)
    worker, gateway = await mesh.worker("w1", second, first), await mesh.gateway("g1", second, first)
    assert worker.redirects[0] == first.address
    assert gateway.redirects[0] == first.address
    await api.apply(application(num_replicas=2))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    endpoints, starts, generation = gateway.endpoints("app"), list(worker.starts), gateway.generation
    from_here = len(gateway.snapshots)
    await first.drain()
    await first.stop()
    api = Api(second.address)
    status = await api.until(lambda s: [w.state for w in s.workers] == [deployment_pb2.WORKER_STATE_READY])
    assert status.leader == second.address
    await gateway.until(lambda: gateway.generation.epoch > generation.epoch)
    assert all(
        [e.replica_id for d in a.deployments for e in d.endpoints] == endpoints
        for snapshot in gateway.snapshots[from_here:]
        for a in snapshot.applications
    )
    await api.apply(application(num_replicas=3))
    await gateway.until(lambda: len(gateway.endpoints("app")) == 3)
    assert worker.starts[:2] == starts
    await api.channel.close()


async def test_an_instance_that_does_not_lead_passes_calls_on(
    mesh: Fixture, etcd_settings: ControlPlaneSettings
) -> None:
    first, _ = await mesh.control(etcd_settings)
    second, api = await mesh.control(etcd_settings)
    await mesh.worker("w1", first)
    assert second.not_ready() == ""
    assert await api.apply(application()) == {"app": (1, "CREATED")}
    assert list((await api.config()).applications) == [application()]
    await api.until_state("app", "RUNNING")
    assert (await api.status()).leader == first.address
    workers = await api.stub.ListWorkers(BUILDS.ListWorkersRequest())
    assert [w.worker_id for w in workers.workers] == ["w1"]
    async with refused(grpc.StatusCode.INVALID_ARGUMENT) as errors:
        await api.apply(application(code="bad"))
    request, _ = details(errors[0])
    assert [v.field for v in request.field_violations] == ["applications[0].import_path"]
    async with refused(grpc.StatusCode.NOT_FOUND):
        await api.stub.WatchStatus(BUILDS.WatchStatusRequest(application="nobody")).read()
    async with refused(grpc.StatusCode.NOT_FOUND, "known: app"):
        await api.stub.Delete(BUILDS.DeleteRequest(application="zzz"))
    await api.stub.Delete(BUILDS.DeleteRequest(application="app"))
    await api.stub.Shutdown(BUILDS.ShutdownRequest())
    await api.until(lambda status: not status.applications)


async def test_a_call_is_passed_on_once_only(mesh: Fixture, etcd_settings: ControlPlaneSettings) -> None:
    await mesh.control(etcd_settings)
    _, api = await mesh.control(etcd_settings)
    call: Awaitable[Any] = api.stub.GetStatus(BUILDS.GetStatusRequest(), metadata=(("x-mesh-forwarded", "1"),))
    async with refused(grpc.StatusCode.UNAVAILABLE, "no control plane leads now"):
        await call


async def _until_copied(control: ControlPlane, *, ready: int) -> None:
    """Wait until an instance that does not lead has heard of what is stored; it tells nobody when."""
    async with asyncio.timeout(WAIT_S):
        while True:
            assert control._loop is not None
            mirror = control._loop.mirror
            replicas = mirror.replicas.values() if mirror else ()
            serving = [a for a in mirror.applications.values() if a.serving] if mirror else []
            if serving and sum(replica.status.state is ReplicaState.READY for replica in replicas) == ready:
                return
            await asyncio.sleep(0.01)


async def test_while_the_store_is_away_reads_are_answered_and_changes_refused(mesh: Fixture) -> None:
    with EtcdCluster() as etcd:
        settings = replace(PATIENT, store=f"etcd://{','.join(etcd.endpoints)}/away")
        first, _ = await mesh.control(settings)
        second, api = await mesh.control(settings)
        worker = await mesh.worker("w1", first)
        await api.apply(application(num_replicas=2))
        await api.until_state("app", "RUNNING")
        applied = (await api.config()).applications
        await _until_copied(second, ready=2)
        for member in etcd.members:
            await asyncio.to_thread(member.kill)
        for control in (first, second):
            api = Api(control.address)
            # The leader may trust its lease a little longer.
            while not (found := await api.status()).stale:
                pass
            (app,) = found.applications
            assert app.state == deployment_pb2.APPLICATION_STATE_RUNNING
            assert app.deployments[0].ready_replicas == 2
            assert {r.worker_id for r in app.deployments[0].replicas} == {"w1"}
            stored: Awaitable[Any] = api.stub.GetConfig(BUILDS.GetConfigRequest(), timeout=WAIT_S)
            answer = await stored
            assert answer.stale
            assert answer.config.applications == applied
            assert found.stale == answer.stale
            # One that passes on what the leader says looks for itself within a second.
            async with asyncio.timeout(WAIT_S):
                while control.not_ready() != found.stale:
                    await asyncio.sleep(0.01)
            assert found.stale.startswith(f"the store cannot be reached: etcd at {etcd.endpoints[0]} did not answer")
            async with refused(grpc.StatusCode.UNAVAILABLE, found.stale) as errors:
                await api.stub.Apply(BUILDS.ApplyRequest(), timeout=4.0)
            assert details(errors[0])[1].reason == "STORE_UNREACHABLE"
            async with refused(grpc.StatusCode.UNAVAILABLE, found.stale):
                await api.stub.Delete(BUILDS.DeleteRequest(application="app"), timeout=4.0)
            async with refused(grpc.StatusCode.UNAVAILABLE, found.stale):
                await api.stub.ListWorkers(BUILDS.ListWorkersRequest(), timeout=4.0)
            await api.channel.close()
        etcd.launch()
        await asyncio.to_thread(etcd.wait_healthy)
        api = Api(second.address)
        async with asyncio.timeout(WAIT_S):
            while first.not_ready() or second.not_ready():
                await asyncio.sleep(0.01)
        await api.until_state("app", "RUNNING")
        await api.channel.close()
        assert len(worker.starts) == 2


async def test_without_a_leader_workers_are_not_waited_for(mesh: Fixture) -> None:
    control, _ = await mesh.control()
    await control.drain()
    async with Client([control.address], OPEN) as client, asyncio.timeout(10.0):
        with pytest.raises(Unreachable, match="no control plane leads now"):
            await client.workers()


async def test_who_watches_is_told_of_an_outage_once_and_goes_on(mesh: Fixture, tmp_path: Path) -> None:
    settings = replace(PATIENT, store=f"sqlite:///{tmp_path}/state.db")
    first, api = await mesh.control(settings)
    await api.apply(application())
    told: asyncio.Queue[str] = asyncio.Queue()
    async with Client([first.address], OPEN) as client, asyncio.timeout(WAIT_S):
        watch = client.watch(patience_s=WAIT_S, lost=told.put_nowait)
        assert [a.name for a in (await anext(watch)).applications] == ["app"]
        assert told.empty()
        await first.drain()
        await first.stop()
        tasks = Tasks()
        coming: asyncio.Task[deployment_service_pb2.Status] = tasks.spawn(_next(watch), name="next")
        why = await told.get()
        assert first.address in why
        await mesh.control(replace(settings, port=int(first.address.rpartition(":")[2])))
        assert [a.name for a in (await coming).applications] == ["app"]
        assert told.empty(), "once"
        await watch.aclose()


async def _next(watch: AsyncGenerator[deployment_service_pb2.Status, None]) -> deployment_service_pb2.Status:
    return await anext(watch)


async def test_an_etcd_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        control = ControlPlane(replace(PATIENT, store=f"etcd://127.0.0.1:{probe.getsockname()[1]}/x"), SYSTEM)
        with pytest.raises(Unreachable):
            await control.start()
        await control.stop()


def test_snapshots_name_each_field_as_the_proto_does() -> None:
    from mesh.controlplane import publish, status

    for value, message in (
        (publish.Snapshot, discovery_service_pb2.Snapshot),
        (publish.RoutedApplication, discovery_service_pb2.RoutedApplication),
        (publish.RoutedDeployment, discovery_service_pb2.RoutedDeployment),
        (publish.Endpoint, discovery_service_pb2.Endpoint),
        (publish.Assignments, worker_service_pb2.Assignments),
        (status.Status, deployment_service_pb2.Status),
        (status.ApplicationStatus, deployment_pb2.ApplicationStatus),
        (status.DeploymentStatus, deployment_pb2.DeploymentStatus),
        (status.ReplicaPlacement, deployment_pb2.ReplicaPlacement),
        (status.WorkerStatus, deployment_pb2.WorkerStatus),
    ):
        names = [field.name for field in message.DESCRIPTOR.fields]
        assert sorted(value.__dataclass_fields__) == sorted(names)
