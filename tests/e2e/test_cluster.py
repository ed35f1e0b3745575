"""Separate processes on a real etcd: deploying, declarative changes, restarts and deaths, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.e2e.cluster import TWO, WHO, Cluster, get, running, served
from tests.support.mesh_process import eventually

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd, two control planes, two workers, two gateways."""
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class Load:
    """Steady requests from threads; `ended` holds what each came to."""

    def __init__(self, *urls: str, connections: int = 8, method: str = "GET") -> None:
        self.answers: Counter[str] = Counter()
        self._urls = urls
        self._method = method
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(connections)]
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        goal = self.answers.total() + count
        eventually(lambda: self.answers.total() >= goal, what=f"{count} more answers: {self.answers}", timeout=60)

    def _run(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    came_to = str(client.request(self._method, self._urls[number % len(self._urls)]).status_code)
                except httpx.HTTPError as error:
                    came_to = type(error).__name__
                with self._lock:
                    self.answers[came_to] += 1


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie whose parent died does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_missing(url: str) -> bool:
    return get(url).status_code == 404


def _is_replaced(cluster: Cluster, pid: int) -> bool:
    pids = cluster.ready_pids("who")
    return len(pids) == 2 and pid not in pids


def test_a_file_with_two_applications_is_served_by_both_gateways(cluster: Cluster) -> None:
    done = cluster.deploy(WHO, TWO)
    assert done.code == 0, done.stderr
    for gateway in cluster.gateways:
        assert served(f"{gateway.http}/who").json()["pid"] in cluster.ready_pids("who")
        assert served(f"{gateway.http}/two").json()["pid"] in cluster.ready_pids("two")
        assert get(f"{gateway.http}/-/routes").json() == {"/who": "who", "/two": "two"}
        assert get(f"{gateway.http}/elsewhere").status_code == 404
    # Two replicas on two workers: one each.
    assert {replica["worker_id"] for replica in cluster.replicas("who")} == {"w1", "w2"}
    workers = cluster.meshctl("workers", "-o", "json").json()
    assert {worker["worker_id"] for worker in workers["workers"]} == {"w1", "w2"}


def test_status_and_config_say_what_is_so(cluster: Cluster) -> None:
    assert cluster.deploy(WHO, TWO).code == 0
    table = cluster.meshctl("status").stdout
    assert "who" in table
    assert "RUNNING" in table.upper()
    assert yaml.safe_load(cluster.meshctl("status", "-o", "yaml").stdout).keys() == cluster.status().keys()
    goal = yaml.safe_load(cluster.meshctl("config").stdout)
    written = yaml.safe_load("applications:\n" + WHO + TWO)
    by_name = {application["name"]: application for application in goal["applications"]}
    for application in written["applications"]:
        kept = by_name[application["name"]]
        assert {key: kept[key] for key in application} == application
    # Any control plane answers, leading or not.
    configs = {
        json.dumps(yaml.safe_load(cluster.meshctl("config", "--address", each.control).stdout))
        for each in cluster.control_planes
    }
    assert len(configs) == 1


def test_the_same_file_again_changes_nothing_and_what_it_no_longer_names_is_deleted(cluster: Cluster) -> None:
    assert cluster.deploy(WHO, TWO).code == 0
    before = cluster.ready_pids("who") | cluster.ready_pids("two")
    assert cluster.deploy(WHO, TWO).code == 0
    assert cluster.ready_pids("who") | cluster.ready_pids("two") == before
    keep = cluster.ready_pids("who")
    (two,) = cluster.ready_pids("two")
    assert cluster.deploy(WHO).code == 0
    eventually(lambda: not lives(two), what="the deleted application's replica ends")
    for gateway in cluster.gateways:
        eventually(partial(_is_missing, f"{gateway.http}/two"), what="its route goes")
    assert cluster.ready_pids("who") == keep


def test_all_control_planes_restarted_under_load_no_request_fails_and_nothing_restarts(cluster: Cluster) -> None:
    assert cluster.deploy(WHO).code == 0
    before = cluster.ready_pids("who")
    with Load(*(f"{gateway.http}/who" for gateway in cluster.gateways)) as load:
        load.more(50)
        ports = [process.control.rpartition(":")[2] for process in cluster.control_planes]
        for process in cluster.control_planes:
            process.kill_parent()
            process.wait()
        load.more(200)
        cluster.control_planes.clear()
        for port in ports:
            cluster.start_control_plane("--port", port).wait_ready()
        eventually(lambda: len(cluster.status()["workers"]) == 2, what="both workers are back")
        load.more(200)
    assert set(load.answers) == {"200"}, load.answers
    assert cluster.ready_pids("who") == before
    # And it still takes orders.
    assert cluster.deploy(WHO, TWO).code == 0
    served(f"{cluster.gateways[0].http}/two")
    assert cluster.ready_pids("who") == before


def test_a_replica_killed_under_load_is_replaced_and_idempotent_requests_see_nothing(cluster: Cluster) -> None:
    assert cluster.deploy(WHO).code == 0
    served(f"{cluster.gateways[0].http}/who")
    urls = [f"{gateway.http}/who?s=0.005" for gateway in cluster.gateways]
    with Load(*urls) as load:
        for _ in range(3):
            load.more(100)
            victim = min(cluster.ready_pids("who"))
            os.kill(victim, signal.SIGKILL)
            replaced = partial(_is_replaced, cluster, victim)
            eventually(replaced, what="the killed replica is replaced", timeout=30)
    assert set(load.answers) == {"200"}, load.answers


def test_a_leader_killed_hands_over_and_the_other_takes_orders(cluster: Cluster) -> None:
    assert cluster.deploy(WHO).code == 0
    before = cluster.ready_pids("who")
    leader = cluster.status()["leader"]
    (index,) = [i for i, process in enumerate(cluster.control_planes) if process.control == leader]
    victim = cluster.control_planes.pop(index)
    victim.kill_parent()
    victim.wait()
    eventually(
        lambda: cluster.meshctl("status", "-o", "json").code == 0 and cluster.status()["leader"] != leader,
        what="the other control plane leads",
        timeout=30,
    )
    done = cluster.deploy(WHO, TWO)
    assert done.code == 0, done.stderr
    served(f"{cluster.gateways[0].http}/two")
    assert cluster.ready_pids("who") == before
    cluster.start_control_plane().wait_ready()


def test_a_worker_killed_takes_its_replicas_along_and_they_are_placed_on_the_other(tmp_path: Path) -> None:
    with running(tmp_path, control_planes=1, workers=2, gateways=1) as cluster:
        assert cluster.deploy(WHO).code == 0
        url = f"{cluster.gateways[0].http}/who"
        served(url)
        by_worker = {r["worker_id"]: r["status"]["pid"] for r in cluster.replicas("who")}
        assert set(by_worker) == {"w1", "w2"}
        with Load(url) as load:
            load.more(50)
            victim = cluster.workers.pop(0)
            victim.kill_parent()
            victim.assert_gone()
            assert not lives(by_worker["w1"])
            eventually(
                lambda: (
                    [r["worker_id"] for r in cluster.replicas("who") if r["status"]["state"] == "READY"] == ["w2", "w2"]
                ),
                what="both replicas run on the worker that is left",
                timeout=40,
            )
            load.more(50)
        assert set(load.answers) == {"200"}, load.answers
        assert lives(by_worker["w2"])
