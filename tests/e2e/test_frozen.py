"""Processes that stand still without ending (frozen, unplugged), and a store that is away, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from mesh.cli.fail import ExitCode
from tests.e2e.cluster import TWO, WHO, Cluster, get, running, served
from tests.e2e.test_cluster import Load, lives
from tests.support.frozen import frozen
from tests.support.mesh_process import eventually

pytestmark = pytest.mark.long

QUICK_WHO = WHO + "    health_check_period_s: 1\n    health_check_timeout_s: 1\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd, two control planes, two workers, two gateways."""
    with running(tmp_path_factory.mktemp("frozen")) as cluster:
        yield cluster


def _ready_elsewhere(cluster: Cluster, pid: int) -> bool:
    pids = cluster.ready_pids("who")
    return len(pids) == 2 and pid not in pids


def test_a_frozen_leader_hands_over_and_nothing_else_changes(cluster: Cluster) -> None:
    assert cluster.deploy(WHO).code == 0
    before = cluster.ready_pids("who")
    leader = cluster.leader()
    others = [process for process in cluster.control_planes if process is not leader]
    url = f"{cluster.gateways[0].http}/who"
    with Load(url) as load:
        load.more(20)
        with frozen(leader.pid):
            # Whichever comes first is asked first; a frozen one must not cost much.
            cluster.control_planes[:] = [leader, *others]
            found = cluster.meshctl("status", "-o", "json", timeout=12)
            assert found.code == 0, found.stderr
            assert {app["name"] for app in found.json()["applications"]} == {"who"}

            def is_led() -> bool:
                status = cluster.status()
                ready = {w["worker_id"] for w in status["workers"] if w["state"] == "READY"}
                return status["leader"] == others[0].control and ready == {"w1", "w2"} and status["gateways"] == 2

            eventually(is_led, what="all have found the other control plane", timeout=60)
            done = cluster.deploy(WHO, TWO)
            assert done.code == 0, done.stderr
            assert served(f"{cluster.gateways[1].http}/two").status_code == 200
            assert cluster.ready_pids("who") == before
        load.more(50)
    assert set(load.answers) == {"200"}, load.answers
    assert cluster.ready_pids("who") == before, "nothing was started again"
    eventually(lambda: len(cluster.status()["workers"]) == 2, what="all is as it was, with the thawed one")
    assert cluster.leader() is others[0], "who wakes up late has lost its office"
    assert "Traceback" not in leader.stderr, "who has gone meanwhile is no error"


def test_a_frozen_replica_holds_nothing_up_for_long_and_is_replaced(cluster: Cluster) -> None:
    assert cluster.deploy(QUICK_WHO).code == 0
    urls = [f"{gateway.http}/who" for gateway in cluster.gateways]
    for url in urls:
        served(url)
    with Load(*urls, connections=6) as load:
        load.more(50)
        victim = min(cluster.ready_pids("who"))
        with frozen(victim):
            eventually(partial(_ready_elsewhere, cluster, victim), what="the frozen replica is replaced", timeout=60)
            assert not lives(victim)
        load.more(100)
    assert set(load.answers) == {"200"}, load.answers


def test_a_frozen_worker_that_returns_keeps_what_it_runs(tmp_path: Path) -> None:
    with running(tmp_path, control_planes=1, workers=1, gateways=1) as cluster:
        assert cluster.deploy(WHO).code == 0
        before = cluster.ready_pids("who")
        url = f"{cluster.gateways[0].http}/who"
        with Load(url) as load:
            load.more(20)
            with frozen(cluster.workers[0].pid):
                eventually(lambda: not cluster.status()["workers"], what="the frozen worker is lost", timeout=60)
                load.more(20)
            eventually(lambda: len(cluster.status()["workers"]) == 1, what="it is back", timeout=30)
            eventually(lambda: cluster.ready_pids("who"), what="its replicas count again")
            load.more(20)
        assert set(load.answers) == {"200"}, load.answers
        assert cluster.ready_pids("who") == before


def test_while_the_store_is_away_what_runs_serves_and_can_be_seen(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, gateways=1) as cluster:
        assert cluster.deploy(WHO).code == 0
        before = cluster.ready_pids("who")
        config = cluster.meshctl("config").stdout
        url = f"{cluster.gateways[0].http}/who"
        (member,) = cluster.etcd.members
        member.kill()
        eventually(lambda: cluster.status()["stale"], what="it is noticed", timeout=30)
        status, stored = cluster.meshctl("status"), cluster.meshctl("config")
        for done in (status, stored):
            assert done.code == 0, done.stderr
            assert "warning: " in done.stderr
            assert done.stderr.count("\n") == 1
        assert "RUNNING" in status.stdout
        assert stored.stdout == config
        assert cluster.ready_pids("who") == before
        path = tmp_path / "mesh.yaml"
        path.write_text("applications:\n" + WHO + TWO)
        away = f"the store cannot be reached: etcd at {member.endpoint} did not answer"
        for process in cluster.control_planes:
            for command in (("deploy", str(path)), ("delete", "who"), ("workers",)):
                refused = cluster.meshctl(*command, "--address", process.control, timeout=12)
                assert refused.code == ExitCode.UNREACHABLE, refused.stderr
                assert f"error: control plane {process.control}: {away}" in refused.stderr
                assert "fix: check that etcd runs there" in refused.stderr
            known = cluster.meshctl("status", "--address", process.control)
            assert (known.code, away in known.stderr) == (0, True), known.stderr
            told = httpx.get(f"{process.admin}/readyz")
            assert told.status_code == 503
            assert away in told.text
        assert get(url).status_code == 200
        cluster.etcd.restart(member)
        for process in cluster.control_planes:
            readyz = f"{process.admin}/readyz"
            eventually(lambda url=readyz: httpx.get(url).is_success, what="it is ready again")  # type: ignore[misc]
        eventually(lambda: not cluster.status()["stale"], what="somebody leads again", timeout=60)
        done = cluster.deploy(WHO, TWO)
        assert done.code == 0, done.stderr
        assert served(f"{cluster.gateways[0].http}/two").status_code == 200
        assert cluster.ready_pids("who") == before
