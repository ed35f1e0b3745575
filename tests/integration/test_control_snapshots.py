"""What the control plane sends to gateways: whole snapshots, or what changed, to those that put them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from mesh.clock import SYSTEM
from mesh.controlplane.server import ControlPlane
from mesh.credentials import Credentials
from mesh.lifecycle import Tasks
from mesh.pipe.discovery import Discovery
from mesh.security import NO_SECURITY
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.deployment_service_pb2 import DeleteRequest
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceStub
from tests.integration.test_control_plane import Fixture, application, mesh
from tests.support.scripted_peers import WAIT_S, Watched

__all__ = ["mesh"]


class Follower(Watched):
    """A gateway's side of the stream, as gateways have it."""

    def __init__(self, gateway_id: str) -> None:
        super().__init__()
        self.gateway_id = gateway_id
        self.snapshot = pb.Snapshot()

    def apply(self, snapshot: pb.Snapshot) -> bool:
        self.snapshot = pb.Snapshot()
        self.snapshot.CopyFrom(snapshot)
        self.told()
        return True

    def names(self) -> list[str]:
        return [each.name for each in self.snapshot.applications]

    @asynccontextmanager
    async def following(self, *controls: ControlPlane) -> AsyncIterator[None]:
        says = lambda: pb.StreamSnapshotsRequest(gateway_id=self.gateway_id)  # noqa: E731
        addresses = [control.address for control in controls]
        discovery = Discovery(addresses, says, Credentials(NO_SECURITY), SYSTEM, self.apply)
        tasks = Tasks()
        tasks.spawn(discovery.run(), name=self.gateway_id)
        try:
            yield
        finally:
            await tasks.cancel()


@asynccontextmanager
async def stream(control: ControlPlane, **says: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(control.address) as channel:
        call = DiscoveryServiceStub(channel).StreamSnapshots()
        await call.write(pb.StreamSnapshotsRequest(**says))
        yield call
        call.cancel()


async def next_snapshot(call: Any) -> pb.Snapshot:
    async with asyncio.timeout(WAIT_S):
        while not (message := await call.read()).HasField("snapshot"):
            pass
    snapshot: pb.Snapshot = message.snapshot
    return snapshot


async def test_who_puts_them_together_gets_a_whole_snapshot_and_then_what_changed(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    whole = await mesh.gateway("whole", control)
    follower = Follower("changes")
    async with follower.following(control):
        names = [f"app-{i}" for i in range(5)]
        await api.apply(*map(application, names))
        await follower.until(lambda: follower.names() == names)
        async with stream(control, gateway_id="raw", takes_changes=True) as raw:
            first = await next_snapshot(raw)
            assert ([each.name for each in first.applications], first.HasField("since")) == (names, False)
            for name in names:
                await api.until_state(name, "RUNNING")
            # What was on its way when the stream opened is told first.
            await api.apply(application("app-3", max_ongoing_requests=7), keep_others=True)
            before = first.generation
            while not any(d.max_ongoing_requests == 7 for a in first.applications for d in a.deployments):
                before, first = first.generation, await next_snapshot(raw)
            assert ([each.name for each in first.applications], first.since) == (["app-3"], before)
            await api.stub.Delete(DeleteRequest(application="app-1"), timeout=WAIT_S)
            before, gone = first.generation, await next_snapshot(raw)
            while not gone.gone:
                before, gone = gone.generation, await next_snapshot(raw)
            assert (list(gone.gone), gone.since) == (["app-1"], before)
        left = ["app-0", "app-2", "app-3", "app-4"]
        await follower.until(lambda: follower.names() == left)
        await whole.until(lambda: [a.name for a in whole.snapshots[-1].applications] == left)
        await api.apply(application("app-2", max_ongoing_requests=9), keep_others=True)
        await api.until_state("app-2", "RUNNING", 2)
        await whole.until(lambda: (d := whole.deployment("app-2")) and d.max_ongoing_requests == 9)
        await follower.until(lambda: follower.snapshot == whole.snapshots[-1])
        assert all(not each.HasField("since") for each in whole.snapshots), "it did not say that it takes changes"


async def test_a_gateway_that_reads_nothing_holds_up_nobody(mesh: Fixture) -> None:
    control, api = await mesh.control()
    await mesh.worker("w1", control)
    quick = Follower("quick")
    async with stream(control, gateway_id="stuck", takes_changes=True) as stuck, quick.following(control):
        for limit in range(1, 21):
            await api.apply(application(max_ongoing_requests=limit), supersede=True)
            await quick.until(lambda limit=limit: _limit(quick.snapshot) == limit)  # type: ignore[misc]
        await api.until(lambda status: (status.gateways, status.gateways_behind) == (2, 1))
        last = await next_snapshot(stuck)
        assert not last.HasField("since")
        while last.generation != quick.snapshot.generation:
            following = await next_snapshot(stuck)
            assert following.since == last.generation, "in order, and none of them is left out"
            last = following
        await stuck.write(pb.StreamSnapshotsRequest(gateway_id="stuck", serving=last.generation))
        await api.until(lambda status: (status.gateways, status.gateways_behind) == (2, 0))


def _limit(snapshot: pb.Snapshot) -> int:
    return next((d.max_ongoing_requests for a in snapshot.applications for d in a.deployments), 0)
