"""Under steady load, over HTTP and gRPC, nothing that operators do fails a request.

One cluster of separate processes and one load for all of the scenarios, which leave it as they found it: both
applications run, with two replicas each, and no worker drains.
"""

from __future__ import annotations

import importlib.resources
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from grpc_tools import protoc  # type: ignore[import-untyped]

from tests.e2e.cluster import Cluster, running
from tests.support.load import Load, Window
from tests.support.mesh_process import FREE_PORTS, MeshProcess, Result, eventually

RATE = 500.0
REQUESTS_MIN = 20_000
"""Of each scenario."""
SLICE, SLICE_RATE = 2000, 400.0
IDLE = 500
"""Requests before each scenario, to compare its times with."""
PROTOS = Path(__file__).parents[1] / "protos"
CODE = """\
import os
import time

import mesh
import soak_pb2
import soak_pb2_grpc

MARK, FAULT = os.environ["MARK"], os.environ.get("FAULT", "")


class Faulty:
    def __init__(self):
        self.word = MARK
        if FAULT == "constructor":
            raise RuntimeError("broken in the constructor")
        if FAULT == "never ready":
            time.sleep(3600)

    def check_health(self):
        if FAULT == "never healthy":
            raise RuntimeError("not well")

    def reconfigure(self, config):
        if config and config.get("refuse"):
            raise ValueError("refused")
        self.word = MARK + (config or {}).get("suffix", "")


@mesh.deployment(max_ongoing_requests=100, max_queued_requests=20000)
class Web(Faulty):
    async def __call__(self, request):
        return self.word


@mesh.deployment(max_ongoing_requests=100, max_queued_requests=20000)
class Echo(Faulty, soak_pb2_grpc.EchoServicer):
    async def Say(self, request, context):
        return soak_pb2.Word(text=self.word)


web, rpc = Web.bind(), Echo.bind()
"""
BUILD_FAILS = """\
raise RuntimeError("broken at import")
"""


@dataclass(frozen=True)
class Goal:
    """What both applications are deployed with."""

    mark: str = "one"
    replicas: int = 2
    fault: str = ""
    user_config: str = "{}"
    module: str = "served"
    neighbour: bool = False

    def text(self) -> str:
        """Return the config file."""
        names = {"web": ("/web", "Web"), "rpc": ("/rpc", "Echo")}
        if self.neighbour:
            names["neighbour"] = ("/neighbour", "Web")
        return "applications:\n" + "".join(
            f"- name: {name}\n"
            f"  route_prefix: {route}\n"
            f"  import_path: {self.module}:{'rpc' if name == 'rpc' else 'web'}\n"
            f"  runtime_env: {{env_vars: {{MARK: {self.mark}, FAULT: '{self.fault}'}}}}\n"
            f"  deployments:\n"
            f"  - name: {deployment}\n"
            f"    num_replicas: {self.replicas}\n"
            f"    user_config: {self.user_config}\n"
            f"    startup_timeout_s: {4 if self.fault.startswith('never') else 60}\n"
            f"    health_check_period_s: 0.5\n"
            for name, (route, deployment) in names.items()
        )


@dataclass
class Shop:
    """A cluster under load."""

    cluster: Cluster
    load: Load
    told: list[str] = field(default_factory=list)
    """A line for each scenario."""

    def deploy(self, goal: Goal, *flags: str) -> Result:
        """Deploy, and wait until it has come true or failed."""
        path = self.cluster.directory / "mesh.yaml"
        path.write_text(goal.text())
        return self.cluster.meshctl("deploy", str(path), *flags, timeout=120)

    def meshctl(self, *args: str) -> Result:
        """Run a command that must succeed."""
        done = self.cluster.meshctl(*args, timeout=120)
        assert done.code == 0, done.stderr
        return done

    def replicas(self) -> list[Any]:
        """Return the placements of both applications."""
        return [*self.cluster.replicas("web"), *self.cluster.replicas("rpc")]

    def settled(self, count: int, worker: str = "") -> None:
        """Wait until each of both has exactly so many replicas and all are ready; none of them on `worker`."""

        def so() -> bool:
            found = self.replicas()
            ready = all(each["status"]["state"] == "READY" for each in found)
            return len(found) == 2 * count and ready and worker not in {each["worker_id"] for each in found}

        eventually(so, what=f"{count} replicas each: {self.replicas()}", timeout=60)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the code is."""
    directory = tmp_path_factory.mktemp("shop")
    words = (f"-I{PROTOS}", f"-I{importlib.resources.files('grpc_tools')}/_proto", f"--python_out={directory}")
    assert protoc.main(["protoc", *words, f"--grpc_python_out={directory}", str(PROTOS / "soak.proto")]) == 0
    (directory / "served.py").write_text(CODE)
    (directory / "broken.py").write_text(BUILD_FAILS)
    return directory


@pytest.fixture(scope="module")
def shop(directory: Path) -> Iterator[Shop]:
    """Two workers, two gateways, a control plane, on an etcd; the load begins when both applications serve."""
    with running(directory, control_planes=1) as cluster:
        (directory / "served.py").write_text(CODE)
        shop = Shop(cluster, None)  # type: ignore[arg-type]
        done = shop.deploy(Goal())
        assert done.code == 0, done.stderr
        gateways = cluster.gateways
        with Load([g.http for g in gateways], [g.grpc for g in gateways], rate=RATE) as shop.load:
            yield shop
        sys.stderr.write("\n" + "\n".join(shop.told) + "\n")


@pytest.fixture(autouse=True)
def _as_at_first(request: pytest.FixtureRequest) -> None:
    """Begin each scenario where the others began."""
    if "shop" in request.fixturenames:
        shop: Shop = request.getfixturevalue("shop")
        done = shop.deploy(Goal())
        assert done.code == 0, done.stderr
        shop.settled(2)


def meanwhile(shop: Shop, what: str, work: Callable[[], object]) -> Window:
    """Do `work` under load and return what requests saw from its begin until enough had come. None may have failed."""
    load = shop.load
    load.window()
    eventually(lambda: load.look().requests >= IDLE, what="load", timeout=60)
    before = load.window()
    work()
    eventually(lambda: load.look().requests >= REQUESTS_MIN, what="load", timeout=240)
    seen = load.window()
    shop.told.append(f"{what}: {seen} (before: p50 {before.p50_ms:.1f} ms, p99 {before.p99_ms:.1f} ms)")
    shop.told += [f"    sent again: {count} × {why}" for why, count in seen.retried.items()]
    assert not before.failed, before.failed
    assert not seen.failed, f"{what}: {seen.failed}"
    return seen


def marks(seen: Window) -> set[str]:
    """Return what answered, over either."""
    return {answer.partition(" ")[2] for answer in seen.answers}


@pytest.mark.soak
def test_scale(shop: Shop) -> None:
    def work() -> None:
        for count in (1, 4, 2):
            shop.meshctl("scale", "web", f"Web={count}")
            shop.meshctl("scale", "rpc", f"Echo={count}")
            shop.settled(count)

    assert marks(meanwhile(shop, "scale 1, 4, 2", work)) == {"one"}


@pytest.mark.soak
def test_user_config(shop: Shop) -> None:
    def work() -> None:
        for config in ("{suffix: -x}", "{}"):
            done = shop.deploy(replace(Goal(), user_config=config))
            assert done.code == 0, done.stderr

    pids = {each["status"]["pid"] for each in shop.replicas()}
    assert marks(meanwhile(shop, "user_config", work)) == {"one", "one-x"}
    assert {each["status"]["pid"] for each in shop.replicas()} == pids


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 4])
def test_code_update(shop: Shop, count: int) -> None:
    def work() -> None:
        for mark in ("two", "one"):
            done = shop.deploy(Goal(mark=mark, replicas=count))
            assert done.code == 0, done.stderr
            shop.settled(count)

    assert shop.deploy(Goal(replicas=count)).code == 0
    shop.settled(count)
    assert marks(meanwhile(shop, f"code update, replicas {count}", work)) == {"one", "two"}


@pytest.mark.soak
@pytest.mark.parametrize(
    "goal",
    [
        Goal(mark="two", module="broken"),
        Goal(mark="two", fault="constructor"),
        Goal(mark="two", fault="never ready"),
        Goal(mark="two", fault="never healthy"),
        Goal(user_config="{refuse: true}"),
    ],
    ids=["import raises", "constructor raises", "never ready", "never healthy", "reconfigure raises"],
)
def test_failed_update(shop: Shop, goal: Goal, request: pytest.FixtureRequest) -> None:
    def work() -> None:
        done = shop.deploy(goal)
        assert done.code == 7, f"{done.code}: {done.stderr}"
        shop.settled(2)

    assert marks(meanwhile(shop, f"failed update: {request.node.callspec.id}", work)) == {"one"}


@pytest.mark.soak
def test_rollback_and_restart(shop: Shop) -> None:
    def work() -> None:
        assert shop.deploy(Goal(mark="two")).code == 0
        for name in ("web", "rpc"):
            shop.meshctl("rollback", name)
            shop.meshctl("restart", name)
        shop.settled(2)

    assert marks(meanwhile(shop, "rollback, restart", work)) == {"one", "two"}


@pytest.mark.soak
def test_drain_of_a_worker(shop: Shop) -> None:
    def work() -> None:
        shop.meshctl("drain", "w1")
        shop.settled(2, worker="w1")

    try:
        meanwhile(shop, "drain of a worker", work)
    finally:
        shop.meshctl("drain", "w1", "--undo")


@pytest.mark.soak
def test_end_of_a_worker(shop: Shop) -> None:
    def work() -> None:
        ending = next(process for process in shop.cluster.workers if process.returncode is None)
        ending.signal(signal.SIGTERM)
        assert ending.wait(60) == 0
        shop.settled(2)

    meanwhile(shop, "SIGTERM of a worker", work)
    shop.cluster.start_worker("w3").wait_ready()


@pytest.mark.soak
def test_end_of_a_replica(shop: Shop) -> None:
    def work() -> None:
        for name in ("web", "rpc"):
            pid = min(shop.cluster.ready_pids(name))
            os.kill(pid, signal.SIGTERM)
            eventually(lambda name=name, pid=pid: pid not in shop.cluster.ready_pids(name), what="it has ended")  # type: ignore[misc]
            shop.settled(2)

    meanwhile(shop, "SIGTERM of replicas", work)


@pytest.mark.soak
def test_restart_of_each_gateway(shop: Shop) -> None:
    def work() -> None:
        for gateway in list(shop.cluster.gateways[:2]):
            ports = gateway.http.rpartition(":")[2], gateway.grpc.rpartition(":")[2]
            gateway.signal(signal.SIGTERM)
            assert gateway.wait(60) == 0
            shop.cluster.gateways.remove(gateway)
            shop.cluster.start_gateway("--port", ports[0], "--grpc-port", ports[1]).wait_ready()

    meanwhile(shop, "restart of each gateway", work)


@pytest.mark.soak
def test_deletion_of_a_neighbour(shop: Shop) -> None:
    assert shop.deploy(Goal(neighbour=True)).code == 0
    meanwhile(shop, "deletion of a neighbour", lambda: shop.meshctl("delete", "neighbour"))


@pytest.mark.soak
def test_kill_of_the_control_plane(shop: Shop) -> None:
    def work() -> None:
        cluster = shop.cluster
        (killed,) = cluster.control_planes
        assert shop.deploy(Goal(mark="two"), "--no-wait").code == 0
        killed.kill_parent()
        killed.wait()
        cluster.control_planes.remove(killed)
        cluster.start_control_plane("--port", killed.control.rpartition(":")[2]).wait_ready()
        assert shop.deploy(Goal(mark="two")).code == 0
        assert shop.deploy(Goal()).code == 0
        shop.settled(2)

    assert marks(meanwhile(shop, "kill -9 of the control plane", work)) == {"one", "two"}


@pytest.mark.long
def test_a_code_update_in_one_process_tree(directory: Path) -> None:
    """A slice of the above for every run."""
    config = directory / "mesh.yaml"
    with MeshProcess("start", "--data-dir", f"{directory}-data", *FREE_PORTS, cwd=directory) as mesh:

        def deploy(mark: str) -> None:
            config.write_text(Goal(mark=mark, replicas=1).text())
            done = mesh.meshctl("deploy", str(config), cwd=directory, timeout=60)
            assert done.code == 0, done.stderr

        deploy("one")
        with Load([mesh.http], [mesh.grpc], rate=SLICE_RATE) as load:
            eventually(lambda: len(load.look().answers) == 2, what="both answer", timeout=60)
            deploy("two")
            eventually(lambda: len(load.look().answers) == 4, what="both answer with the new code", timeout=60)
            eventually(lambda: load.look().requests >= SLICE, what="load", timeout=60)
            seen = load.window()
        assert not seen.failed, seen.failed
        assert marks(seen) == {"one", "two"}
