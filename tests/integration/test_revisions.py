"""Revisions, and two changes at once: real store, real gRPC, scripted workers over real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.cli import deploying
from mesh.cli.client import Client
from mesh.controlplane.server import ControlPlane
from mesh.credentials import OPEN
from mesh.errors import Conflict, DeadlineExceeded, RolloutUnderWay
from mesh.lifecycle import Tasks
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2
from mesh.v1 import revision_service_pb2 as pb
from mesh.v1.deployment_service_pb2 import ApplyRequest
from mesh.v1.revision_service_pb2_grpc import RevisionServiceStub
from tests.integration.test_control_plane import PATIENT, Api, Fixture, application, refused
from tests.support.etcd import EtcdCluster
from tests.support.scripted_peers import WAIT_S, ScriptedWorker

AT_ONCE = replace(PATIENT, min_ready_s=0.0)


@pytest.fixture
async def mesh() -> AsyncIterator[Fixture]:
    async with AsyncExitStack() as stack:
        yield Fixture(stack)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "etcd"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, etcd: EtcdCluster) -> ControlPlaneSettings:
    """On either store."""
    url = f"etcd://{','.join(etcd.endpoints)}/{tmp_path.name}"
    return replace(AT_ONCE, store=url if request.param == "etcd" else f"sqlite:///{tmp_path}/state.db")


class Changes:
    """The revision service at one address."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.stub = RevisionServiceStub(api.channel)

    async def rollback(self, to: int = 0, **options: Any) -> int:
        request = pb.RollbackRequest(application="app", to_revision=to, options=pb.ChangeOptions(**options))
        return (await self.stub.Rollback(request, timeout=WAIT_S)).application.revision

    async def scale(self, options: dict[str, Any] | None = None, **num_replicas: int) -> int:
        given = pb.ChangeOptions(**(options or {}))
        request = pb.ScaleRequest(application="app", num_replicas=num_replicas, options=given)
        return (await self.stub.Scale(request, timeout=WAIT_S)).application.revision

    async def restart(self, *deployments: str, **options: Any) -> int:
        request = pb.RestartRequest(application="app", deployments=deployments, options=pb.ChangeOptions(**options))
        return (await self.stub.Restart(request, timeout=WAIT_S)).application.revision

    async def pause(self, paused: bool = True) -> int:
        request = pb.SetPausedRequest(application="app", paused=paused)
        return (await self.stub.SetPaused(request, timeout=WAIT_S)).revision

    async def history(self) -> list[tuple[int, str, str]]:
        answer = await self.stub.ListRevisions(pb.ListRevisionsRequest(application="app"), timeout=WAIT_S)
        return [
            (
                r.revision,
                pb.RevisionOutcome.Name(r.outcome).removeprefix("REVISION_OUTCOME_"),
                f"{pb.RevisionCause.Name(r.cause).removeprefix('REVISION_CAUSE_')} {r.detail}".rstrip(),
            )
            for r in answer.revisions
        ]

    async def running(self, revision: int) -> None:
        await self.api.until_state("app", "RUNNING", revision=revision)


async def started(
    mesh: Fixture, settings: ControlPlaneSettings = AT_ONCE
) -> tuple[ControlPlane, Changes, ScriptedWorker]:
    control, api = await mesh.control(settings)
    worker = await mesh.worker("w1", control)
    await api.apply(application(num_replicas=1))
    await api.until_state("app", "RUNNING")
    return control, Changes(api), worker


async def test_history_rollback_scale_restart(mesh: Fixture, settings: ControlPlaneSettings) -> None:
    control, changes, worker = await started(mesh, settings)
    await changes.api.apply(application(code="m:new", num_replicas=1))
    await changes.running(2)
    assert await changes.rollback() == 3
    await changes.running(3)
    assert list((await changes.api.config()).applications) == [application(num_replicas=1)]
    assert {spec.config.import_path for spec in worker.specs.values()} == {"m:app"}
    before = set(worker.replicas)
    assert await changes.scale(Echo=2) == 4
    await changes.running(4)
    assert before < set(worker.replicas)
    assert list((await changes.api.config()).applications) == [application(num_replicas=2)]
    before = set(worker.replicas)
    assert await changes.restart() == 5
    await changes.running(5)
    await worker.until(lambda: len(worker.replicas) == 2 and before.isdisjoint(worker.replicas))
    assert list((await changes.api.config()).applications) == [application(num_replicas=2)]
    assert await changes.api.apply(application(num_replicas=2)) == {"app": (5, "UNCHANGED")}
    worker.code["m:bad"] = "ImportError: nothing like this"
    await changes.api.apply(application(code="m:bad"))
    await changes.api.until_state("app", "DEPLOY_FAILED", revision=6)
    expected = [
        (6, "FAILED", "DEPLOY"),
        (5, "SERVING", "RESTART"),
        (4, "REPLACED", "SCALE Echo=2"),
        (3, "REPLACED", "ROLLBACK to revision 1"),
        (2, "REPLACED", "DEPLOY"),
        (1, "REPLACED", "DEPLOY"),
    ]
    assert await changes.history() == expected
    await worker.disconnect()
    await control.stop()
    _, api = await mesh.control(settings)
    assert await Changes(api).history() == expected


async def test_history_goes_with_its_application(mesh: Fixture, settings: ControlPlaneSettings) -> None:
    _, changes, _ = await started(mesh, settings)
    await changes.api.apply()
    await changes.api.until(lambda status: not status.applications)
    async with refused(grpc.StatusCode.NOT_FOUND, "there is no application 'app'"):
        await changes.history()
    await changes.api.apply(application())
    await changes.running(1)
    assert await changes.history() == [(1, "SERVING", "DEPLOY")]


async def test_a_call_whose_answer_was_lost_changes_nothing_more(mesh: Fixture) -> None:
    _, changes, _ = await started(mesh)
    assert await changes.restart(request_id="once") == 2
    assert await changes.restart(request_id="once") == 2
    await changes.running(2)
    assert await changes.restart(request_id="once") == 2
    assert len(await changes.history()) == 2


async def test_what_cannot_be_done_is_refused(mesh: Fixture) -> None:
    _, changes, _ = await started(mesh)
    async with refused(grpc.StatusCode.NOT_FOUND, "no earlier revision of application 'app' served"):
        await changes.rollback()
    async with refused(grpc.StatusCode.NOT_FOUND, "application 'app' has no revision 7; known are 1"):
        await changes.rollback(7)
    async with refused(grpc.StatusCode.NOT_FOUND, "has no deployment 'Ech'"):
        await changes.scale(Ech=2)
    async with refused(grpc.StatusCode.NOT_FOUND, "has no deployment 'Other'"):
        await changes.restart("Other")
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "Echo.num_replicas"):
        await changes.scale(Echo=-1)
    async with refused(grpc.StatusCode.ABORTED, "is at revision 1, not at 9"):
        await changes.scale({"expected_revision": 9}, Echo=2)
    assert await changes.scale(Echo=1) == 1, "that is what it has"


async def test_two_changes_at_once_are_never_a_mix(mesh: Fixture) -> None:
    _, changes, worker = await started(mesh)
    worker.slow.add("m:new")
    await changes.api.apply(application(code="m:new"))
    await changes.api.until_state("app", "DEPLOYING", revision=2)
    text = "application 'app' is on its way to revision 2"
    async with refused(grpc.StatusCode.ABORTED, text):
        await changes.api.apply(application(code="m:other"))
    async with refused(grpc.StatusCode.ABORTED, text):
        await changes.api.apply()
    for change in (changes.rollback(), changes.scale(Echo=2), changes.restart()):
        async with refused(grpc.StatusCode.ABORTED, text):
            await change
    assert await changes.api.apply(application(code="m:new")) == {"app": (2, "UNCHANGED")}
    assert (await changes.api.apply(application(code="m:other"), validate_only=True))["app"][1] == "UPDATED"
    assert await changes.rollback(supersede=True) == 3
    await changes.running(3)
    assert [(r, o) for r, o, _ in await changes.history()] == [(3, "SERVING"), (2, "SUPERSEDED"), (1, "REPLACED")]
    async with refused(grpc.StatusCode.ABORTED, "is at revision 3, not at 2"):
        await changes.api.apply(application(code="m:other"), expected_revisions={"app": 2})


async def test_the_later_deploy_waits_for_the_one_under_way(mesh: Fixture) -> None:
    control, changes, worker = await started(mesh)
    worker.slow.add("m:new")
    await changes.api.apply(application(code="m:new"))
    said: list[str] = []
    request = ApplyRequest(config=deployment_pb2.Config(applications=[application(code="m:other")]))
    async with Client((control.address,), OPEN) as client:

        async def deploy(seconds: float, *, wait: bool = True) -> int:
            async def work(seen: Any) -> Any:
                request.expected_revisions.update(seen)
                return await client.apply(request)

            done = await deploying.in_turn(client, deploying.Turn(client.age_s + seconds, said.append, wait), work)
            return int(done.applications[0].revision)

        with pytest.raises(RolloutUnderWay):
            await deploy(WAIT_S, wait=False)
        with pytest.raises(DeadlineExceeded, match="revision 2 of 'app' is still on its way; nothing was changed"):
            await deploy(0.3)
        said.clear()
        tasks = Tasks()
        waiting = tasks.spawn(deploy(WAIT_S), name="later-deploy")
        while not said:
            await asyncio.sleep(0.01)
        assert said == ["app: waiting for revision 2, which is on its way (--supersede replaces it)"]
        await worker.mend("m:new")
        assert await waiting == 3
        await changes.running(3)
        request.config.applications[0].import_path = "m:third"
        with pytest.raises(Conflict, match="is at revision 3, not at 2"):
            await deploy(WAIT_S)


async def test_pause_and_resume(mesh: Fixture) -> None:
    _, changes, worker = await started(mesh)
    assert await changes.pause() == 1
    await changes.api.apply(application(code="m:new"))
    status = await changes.api.until_state("app", "DEPLOYING", revision=2)
    assert status.paused and status.message == "paused on the way to revision 2"
    assert [build.config.import_path for build in worker.builds] == ["m:app"]
    assert [(r, o) for r, o, _ in await changes.history()] == [(2, "PAUSED"), (1, "SERVING")]
    await changes.api.apply(application(code="m:newer"))
    assert await changes.pause(False) == 3
    await changes.running(3)
    assert [build.config.import_path for build in worker.builds] == ["m:app", "m:newer"]
    assert not (await changes.api.status()).applications[0].paused


async def test_a_version_that_ends_again_and_again_is_rolled_back(mesh: Fixture) -> None:
    control, changes, worker = await started(mesh, replace(AT_ONCE, min_ready_s=3600.0))
    gateway = await mesh.gateway("g1", control)
    serving = set(worker.replicas)
    await changes.api.apply(application(code="m:new", num_replicas=1))
    await worker.until(lambda: len(worker.ready("app")) == 2)
    await gateway.until(lambda: len(gateway.endpoints("app")) == 2)
    (new,) = set(worker.replicas) - serving
    worker.replicas[new] = replace(worker.replicas[new], crashes=3)
    await worker.report()
    status = await changes.api.until_state("app", "DEPLOY_FAILED", revision=2)
    text = "revision 2 failed and was rolled back to revision 1: deployment 'Echo' ended 3 times after it was ready"
    assert status.message.startswith(text)
    await gateway.until(lambda: set(gateway.endpoints("app")) == serving)


async def test_a_revision_that_failed_is_held(mesh: Fixture) -> None:
    _, changes, worker = await started(mesh)
    serving = set(worker.replicas)
    worker.broken["m:new"] = "ValueError: no"
    await changes.api.apply(application(code="m:new", num_replicas=1), hold_on_failure=True)
    status = await changes.api.until_state("app", "DEPLOY_FAILED", revision=2)
    assert status.held and status.message.startswith("revision 2 failed and is held beside revision 1: ")
    assert serving < set(worker.replicas)
    assert await changes.rollback(1) == 3
    await changes.running(3)
    await worker.until(lambda: set(worker.replicas) == serving)
