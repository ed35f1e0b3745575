"""The control plane is killed (-9) in the middle of a rollout, at points drawn from a seed.

A point is a number of steps that the control plane says it has taken since the deploy, not a time. After its restart
the rollout must end as it would have, with exactly the replicas that were asked for, and no request may fail meanwhile:
gateways and replicas need no control plane to serve.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.cluster import Cluster, running
from tests.support.mesh_process import MeshProcess, eventually

pytestmark = pytest.mark.timeout(300)

SEEDS = 20
QUICK = 2
"""Of them in every test run; the others are for `make soak`."""
STEPS = {"building", "built", "placing replica", "serving"}
STEPS_OF = ("stopping replica", "forgetting replica", "failed")
"""Beginnings of what the control plane logs for a step."""
STEPS_MAX = 14
REPLICAS_MAX = 4
CODE = """\
import os

import mesh


@mesh.deployment
class Marked:
    def __init__(self):
        if os.environ["MARK"].startswith("broken"):
            raise RuntimeError("this one is broken")

    async def __call__(self, request):
        return os.environ["MARK"]


app = Marked.bind()
"""
CONFIG = """\
- name: marked
  route_prefix: /marked
  import_path: marked:app
  runtime_env: {{env_vars: {{MARK: {mark}}}}}
  deployments: [{{name: Marked, num_replicas: {replicas}, startup_timeout_s: 60}}]
"""


class Marks:
    """Steady requests; what each came to, and the marks that answered."""

    def __init__(self, url: str) -> None:
        self.failures: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Marks:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.get(self._url)
                except httpx.HTTPError as error:
                    self.failures[repr(error)] += 1
                    continue
                if answer.status_code == 200:
                    self.marks[answer.text] += 1
                else:
                    self.failures[answer.text] += 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane, two workers and a gateway on an etcd, with the application as it is before the first kill."""
    with running(tmp_path_factory.mktemp("chaos"), control_planes=1, workers=2, gateways=1) as cluster:
        (cluster.directory / "marked.py").write_text(CODE)
        done = cluster.deploy(CONFIG.format(mark="first", replicas=REPLICAS_MAX))
        assert done.code == 0, done.stderr
        yield cluster


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.long if seed < QUICK else pytest.mark.soak]) for seed in range(SEEDS)],
)
def test_a_rollout_survives_its_control_plane(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    after, replicas = chance.randrange(STEPS_MAX), chance.randint(1, REPLICAS_MAX)
    is_broken = chance.random() < 0.3
    mark = f"{'broken' if is_broken else 'good'}-{seed}"
    before = _application(cluster)
    target = _deployment(before)["target_replicas"]
    served = httpx.get(f"{cluster.gateways[0].http}/marked", trust_env=False).text
    with Marks(f"{cluster.gateways[0].http}/marked") as marks:
        earlier = len(_steps(cluster.control_planes[0]))
        revision = _deploy(cluster, CONFIG.format(mark=mark, replicas=replicas))
        _kill(cluster, earlier, after)
        if is_broken:
            _wait(cluster, lambda found: found["failure"] is not None, revision)
            replicas, mark = target, served
        else:
            _wait(cluster, lambda found: found["serving_revision"] == revision, revision)
        _wait(cluster, lambda found: len(_deployment(found)["replicas"]) == replicas, revision)
    found = _application(cluster)
    assert [each["status"]["state"] for each in _deployment(found)["replicas"]] == ["READY"] * replicas
    expected = {each["status"]["pid"] for each in _deployment(found)["replicas"]}
    eventually(lambda: _processes(cluster) == expected, what=f"exactly {expected} run: {_processes(cluster)}")
    assert httpx.get(f"{cluster.gateways[0].http}/marked", trust_env=False).text == mark
    assert not marks.failures, marks.failures
    assert set(marks.marks) <= {served, mark}


def _deploy(cluster: Cluster, application: str) -> int:
    path = cluster.directory / "mesh.yaml"
    path.write_text("applications:\n" + application)
    done = cluster.meshctl("deploy", str(path), "--no-wait", "-o", "json")
    assert done.code == 0, done.stderr
    revision: int = done.json()["applications"][0]["revision"]
    return revision


def _kill(cluster: Cluster, earlier: int, after: int) -> None:
    """Kill the control plane once it has taken `after` steps beyond the `earlier` ones, or all; start it again."""
    (process,) = cluster.control_planes

    def reached() -> bool:
        steps = _steps(process)[earlier:]
        return len(steps) >= after or any(step == "serving" or step.startswith("failed") for step in steps)

    eventually(reached, what=f"{after} steps", timeout=60)
    port = process.control.rpartition(":")[2]
    process.kill_parent()
    process.wait()
    cluster.control_planes.clear()
    cluster.start_control_plane("--port", port).wait_ready()


def _steps(process: MeshProcess) -> list[str]:
    said = [json.loads(line).get("message", "") for line in process.stderr.splitlines() if line.startswith("{")]
    return [message for message in said if message in STEPS or message.startswith(STEPS_OF)]


def _application(cluster: Cluster) -> Any:
    (found,) = (each for each in cluster.status()["applications"] if each["name"] == "marked")
    return found


def _deployment(application: Any) -> Any:
    (found,) = application["deployments"]
    return found


def _wait(cluster: Cluster, is_so: Any, revision: int) -> None:
    def now() -> bool:
        found = _application(cluster)
        assert found["revision"] == revision
        return bool(is_so(found))

    eventually(now, what=f"revision {revision} ends: {_application(cluster)}", timeout=90)


def _processes(cluster: Cluster) -> set[int]:
    """Return the process ids of all replicas that run on the workers."""
    return {
        child.pid
        for worker in cluster.workers
        for child in psutil.Process(worker.pid).children(recursive=True)
        if "mesh.worker.replica" in child.cmdline()
    }
