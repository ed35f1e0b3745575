"""A control plane with 50 gateways and 200 deployments of 5 replicas each, on a real etcd.

`meshctl controlplane` is started as a user would; gateways and workers are clients of it over real streams
(`benchmarks.control_peers`), and changes are deployed by its API. Measured are: the time from the answer to `deploy`
until all gateways have the change in hand, one change at a time and 20 a second; snapshots of new gateways; what a
kill -9 costs, with the same process started again and with a standby; CPU, memory and what etcd writes. Writes
benchmarks/results/control_plane.json. Run: python -m benchmarks.control_plane
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import Any

import grpc

from benchmarks.control_cluster import Cluster, Control, Peers
from benchmarks.control_peers import DEPLOYMENT
from benchmarks.latencies import percentile
from benchmarks.report import write
from mesh.v1 import deployment_pb2, deployment_service_pb2
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub

GATEWAYS, WORKERS, APPLICATIONS, REPLICAS = 50, 10, 200, 5
ALL_REPLICAS = APPLICATIONS * REPLICAS
PER_APPLY = 40
LIGHT_CHANGES, SCALINGS, REVISIONS = 100, 20, 5
STORM_PER_SECOND, STORM_SECONDS = 20, 5.0
JOINS_OF_ONE, JOINS_OF_ALL = 5, 3
RESTARTS = 5
IDLE_S = 3.0
SETTLE_S = 0.1
GOALS = {"change_served_by_all_p99_ms": 100, "known_after_restart_s": 5}


class Bench:
    """The cluster, and its peers."""

    def __init__(self, cluster: Cluster, gateways: Peers, workers: Peers) -> None:
        self.cluster = cluster
        self.gateways = gateways
        self.workers = workers
        self.leader: Control = cluster.control
        self._numbers = count(1)
        self._channels = {each.address: grpc.aio.insecure_channel(each.address) for each in self.controls}
        self._configs = {name(i): config(i) for i in range(APPLICATIONS)}

    @property
    def controls(self) -> tuple[Control, Control]:
        """Both control planes, be they running or not."""
        return self.cluster.control, self.cluster.standby

    async def close(self) -> None:
        """End the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def apply(self, *names: str) -> tuple[float, float]:
        """Deploy applications as they are now to be. Returns when it was sent, and when it was accepted."""
        request = deployment_service_pb2.ApplyRequest(keep_others=True)
        request.config.applications.extend(self._configs[each] for each in names)
        sent = time.monotonic()
        stub = DeploymentServiceStub(self._channels[self.leader.address])
        await stub.Apply(request, timeout=30, wait_for_ready=True)
        return sent, time.monotonic()

    async def answers(self, control: Control) -> None:
        """Wait until a control plane answers, leading or not."""
        async with grpc.aio.insecure_channel(control.address) as channel:
            stub = DeploymentServiceStub(channel)
            await stub.GetStatus(deployment_service_pb2.GetStatusRequest(), timeout=20, wait_for_ready=True)

    async def watch(self, **what: Any) -> tuple[str, int]:
        """Have gateways look for something. Returns the watch, and the epoch of their leader."""
        watch = f"watch-{next(self._numbers)}"
        self.gateways.tell("watch", what={"name": watch, **what})
        (answer,) = await self.gateways.answers("watching", where=lambda each: each["watching"] == watch)
        return watch, answer["epoch"]

    async def seen(self, watch: str) -> dict[str, Any]:
        """Wait until all gateways have seen what was looked for; "at" are the times."""
        (answer,) = await self.gateways.answers("watch", where=lambda each: each["watch"] == watch)
        return answer

    async def change(self, application: str, change: Callable[[Any], None], **what: Any) -> dict[str, float]:
        """Change one application and wait until all gateways route by it. Times are milliseconds."""
        watch, _ = await self.watch(application=application, **what)
        change(self._configs[application])
        sent, accepted = await self.apply(application)
        at = (await self.seen(watch))["at"]
        return {
            "accept_ms": (accepted - sent) * 1000,
            "first_ms": (at[0] - accepted) * 1000,
            "all_ms": (at[-1] - accepted) * 1000,
        }

    async def _watch_status(self) -> None:
        """Follow the status of all, as `meshctl deploy` does."""
        stub = DeploymentServiceStub(self._channels[self.leader.address])
        async for _ in stub.WatchStatus(deployment_service_pb2.WatchStatusRequest()):
            pass

    async def spent(self, work: Awaitable[list[dict[str, float]]]) -> dict[str, Any]:
        """Return the figures of changes, and what each of them cost."""
        watching = asyncio.create_task(self._watch_status())
        cpu, before = self.leader.cpu_s(), self.cluster.etcd_counts()
        try:
            runs = await work
        finally:
            watching.cancel()
        after, used = self.cluster.etcd_counts(), self.leader.cpu_s() - cpu
        return {
            "changes": len(runs),
            "accepted_p50_ms": at(500, (run["accept_ms"] for run in runs)),
            "served_by_first_p50_ms": at(500, (run["first_ms"] for run in runs)),
            "served_by_all_p50_ms": at(500, (run["all_ms"] for run in runs)),
            "served_by_all_p99_ms": at(990, (run["all_ms"] for run in runs)),
            "control_plane_cpu_ms_per_change": round(used * 1000 / len(runs), 1),
            "control_plane_cpu_percent": round(100 * used / (after["at"] - before["at"])),
            "etcd_written_bytes_per_change": round((after["written"] - before["written"]) / len(runs)),
            "etcd_read_bytes_per_change": round((after["sent"] - before["sent"]) / len(runs)),
        }


def at(per_mille: int, values: Iterable[float]) -> float:
    """Return a percentile."""
    return round(percentile(sorted(values), per_mille), 1)


def name(number: int) -> str:
    """Return an application's name."""
    return f"app-{number:03d}"


def config(number: int) -> deployment_pb2.ApplicationConfig:
    """Return an application as it is deployed first."""
    settings = deployment_pb2.DeploymentConfig(name=DEPLOYMENT, num_replicas=REPLICAS, max_ongoing_requests=10)
    settings.rolling_update_percentage = 1.0
    return deployment_pb2.ApplicationConfig(
        name=name(number), route_prefix=f"/{name(number)}", import_path="served_1:app", deployments=[settings]
    )


async def deploy(bench: Bench) -> dict[str, Any]:
    """Deploy all applications at once, in as many calls as that takes."""
    names = [name(i) for i in range(APPLICATIONS)]
    watch, _ = await bench.watch(endpoints=ALL_REPLICAS)
    cpu, began = bench.leader.cpu_s(), time.monotonic()
    parts = [names[i : i + PER_APPLY] for i in range(0, APPLICATIONS, PER_APPLY)]
    accepted = max(times[1] for times in await asyncio.gather(*(bench.apply(*part) for part in parts)))
    seen = await bench.seen(watch)
    return {
        "accepted_s": round(accepted - began, 2),
        "served_by_all_s": round(seen["at"][-1] - began, 2),
        "control_plane_cpu_s": round(bench.leader.cpu_s() - cpu, 2),
    }


async def idle(bench: Bench) -> dict[str, Any]:
    """CPU and memory while nothing changes."""
    await asyncio.sleep(2.0)
    cpu, before = bench.leader.cpu_s(), bench.cluster.etcd_counts()
    await asyncio.sleep(IDLE_S)
    after, process = bench.cluster.etcd_counts(), bench.leader.process
    seconds = after["at"] - before["at"]
    return {
        "control_plane_cpu_percent": round(100 * (bench.leader.cpu_s() - cpu) / seconds, 1),
        "control_plane_resident_mb": round(process.memory_info().rss / 1e6, 1),
        "control_plane_unique_mb": round(process.memory_full_info().uss / 1e6, 1),
        "etcd_cpu_percent": round(100 * (after["cpu_s"] - before["cpu_s"]) / seconds, 1),
        "etcd_written_bytes_per_second": round((after["written"] - before["written"]) / seconds),
    }


def _ongoing(value: int) -> Callable[[Any], None]:
    return lambda config: setattr(config.deployments[0], "max_ongoing_requests", value)


def _replicas(value: int) -> Callable[[Any], None]:
    return lambda config: setattr(config.deployments[0], "num_replicas", value)


def _code(value: str) -> Callable[[Any], None]:
    return lambda config: setattr(config, "import_path", value)


async def light(bench: Bench) -> list[dict[str, float]]:
    """Another limit, one application after another."""
    runs = []
    for number in range(LIGHT_CHANGES):
        runs.append(await bench.change(name(number), _ongoing(11), ongoing=11))
        await asyncio.sleep(SETTLE_S)
    return runs


async def scaling(bench: Bench) -> list[dict[str, float]]:
    """One replica more, and one less again."""
    runs = []
    for replicas in (REPLICAS + 1, REPLICAS):
        for number in range(SCALINGS):
            runs.append(await bench.change(name(number), _replicas(replicas), endpoints=replicas))
            await asyncio.sleep(SETTLE_S)
    return runs


async def revisions(bench: Bench) -> list[dict[str, float]]:
    """Other code: as many new replicas, made, known and routed to by all. The old ones stop after that."""
    runs = []
    for number in range(100, 100 + REVISIONS):
        runs.append(await bench.change(name(number), _code("served_2:app"), endpoints=REPLICAS, fresh=True))
        await asyncio.sleep(SETTLE_S)
    return runs


async def storm(bench: Bench) -> list[dict[str, float]]:
    """Changes of all kinds of applications that wait for nothing."""
    began, total = time.monotonic(), round(STORM_PER_SECOND * STORM_SECONDS)

    async def one(number: int) -> dict[str, float]:
        due = began + number / STORM_PER_SECOND
        await asyncio.sleep(due - time.monotonic())
        return await bench.change(name(number), _ongoing(12), ongoing=12)

    return await asyncio.gather(*map(one, range(total)))


async def snapshots(bench: Bench) -> dict[str, Any]:
    """New gateways: one, and as many as there are at once."""

    async def joined(count: int) -> tuple[float, int]:
        bench.gateways.tell("join", count=count)
        answers = await bench.gateways.answers("joined", count)
        bench.gateways.tell("leave", count=count)
        await bench.gateways.answers("left")
        await asyncio.sleep(SETTLE_S)
        return max(each["seconds"] for each in answers), answers[0]["bytes"]

    ones = [await joined(1) for _ in range(JOINS_OF_ONE)]
    alls = [await joined(GATEWAYS) for _ in range(JOINS_OF_ALL)]
    return {
        "bytes": ones[0][1],
        "to_one_new_gateway_ms": round(statistics.median(seconds for seconds, _ in ones) * 1000, 1),
        f"to_{GATEWAYS}_at_once_ms": round(statistics.median(seconds for seconds, _ in alls) * 1000, 1),
    }


async def restarted(bench: Bench, after: Control) -> dict[str, float]:
    """Kill the leader; `after` leads next. Times are seconds since the kill."""
    watch, epoch = await bench.watch(endpoints=ALL_REPLICAS, after_epoch=0)
    await bench.seen(watch)
    watch, epoch = await bench.watch(endpoints=ALL_REPLICAS, after_epoch=epoch)
    await bench.workers.answers("told", 0)
    killed = time.monotonic()
    bench.leader.kill()
    if after is bench.leader:
        after.start()
    bench.leader = after
    seen = await bench.seen(watch)
    told = await bench.workers.answers("told", WORKERS, lambda each: each["epoch"] > epoch)
    return {
        "known_by_all_gateways_s": seen["at"][-1] - killed,
        "all_workers_back_s": max(each["at"] for each in told) - killed,
        "replicas_routed_to_meanwhile": seen["fewest"],
    }


async def restarts(bench: Bench, *, standby: bool) -> dict[str, Any]:
    """kill -9 of the leader, some times; what stands in is it itself, started again at once, or another."""
    runs = []
    for _ in range(RESTARTS):
        other = next(each for each in bench.controls if each is not bench.leader) if standby else bench.leader
        if standby:
            other.start()
            await bench.answers(other)
        runs.append(await restarted(bench, other))
        await asyncio.sleep(1.0)
    return {
        "known_by_all_gateways_s": round(statistics.median(run["known_by_all_gateways_s"] for run in runs), 2),
        "known_by_all_gateways_s_max": round(max(run["known_by_all_gateways_s"] for run in runs), 2),
        "known_by_all_gateways_s_of_each_run": [round(run["known_by_all_gateways_s"], 2) for run in runs],
        "all_workers_back_s_max": round(max(run["all_workers_back_s"] for run in runs), 2),
        "all_workers_back_s_of_each_run": [round(run["all_workers_back_s"], 2) for run in runs],
        "replicas_routed_to_meanwhile": min(run["replicas_routed_to_meanwhile"] for run in runs),
    }


async def measure(cluster: Cluster, only: set[str]) -> dict[str, Any]:
    """Take all figures."""
    addresses = cluster.addresses
    results: dict[str, Any] = {}
    async with Peers("gateways", addresses) as gateways, Peers("workers", addresses) as workers:
        bench = Bench(cluster, gateways, workers)
        workers.tell("join", count=WORKERS, max_replicas=2 * ALL_REPLICAS // WORKERS)
        await workers.answers("told", WORKERS)
        gateways.tell("join", count=GATEWAYS)
        await gateways.answers("joined", GATEWAYS)
        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "deploy_of_200_applications": lambda: deploy(bench),
            "idle": lambda: idle(bench),
            "other_max_ongoing_requests": lambda: bench.spent(light(bench)),
            "other_num_replicas": lambda: bench.spent(scaling(bench)),
            "other_code": lambda: bench.spent(revisions(bench)),
            "changes_20_per_second": lambda: bench.spent(storm(bench)),
            "snapshot": lambda: snapshots(bench),
            "kill_and_start_again": lambda: restarts(bench, standby=False),
            "kill_with_a_standby": lambda: restarts(bench, standby=True),
        }
        try:
            for key, step in steps.items():
                if not only or key in only or key.startswith("deploy"):
                    began = time.monotonic()
                    results[key] = await step()
                    print(f"{key} ({time.monotonic() - began:.1f} s): {results[key]}", file=sys.stderr)
        finally:
            await bench.close()
    return results


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[], help="steps; nothing is written down")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with Cluster() as cluster:
        results = asyncio.run(measure(cluster, set(arguments.only)))
    if not arguments.only:
        what = f"{GATEWAYS} gateways, {WORKERS} workers, {APPLICATIONS} deployments of {REPLICAS} replicas"
        write("control_plane", {"what": what, "goals": GOALS, **results}, "etcd3")


if __name__ == "__main__":
    main()
