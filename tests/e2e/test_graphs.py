"""Graphs of deployments, through meshctl, while they are called: callers go first, and updates fail nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.mesh_process import MeshProcess, eventually
from tests.support.steady import Steady

CODE = """\
import asyncio
import os
from pathlib import Path

import mesh
from starlette.requests import Request

SIGNS = Path(os.environ["SIGNS"])


@mesh.deployment
class Last:
    async def told(self) -> str:
        return "last"


@mesh.deployment
class Middle:
    def __init__(self, last: mesh.DeploymentHandle) -> None:
        self.last = last

    async def told(self) -> str:
        return "middle " + await self.last.told.remote()


@mesh.deployment
class First:
    def __init__(self, middle: mesh.DeploymentHandle) -> None:
        self.middle = middle

    async def __call__(self, request: Request) -> str:
        if number := request.query_params.get("wait"):
            (SIGNS / f"runs-{number}").touch()
            while not (SIGNS / "open").exists():
                await asyncio.sleep(0.01)
        return "first " + await self.middle.told.remote()


@mesh.deployment(name="First")
class Alone:
    async def __call__(self, request: Request) -> str:
        return "alone"


graph = First.bind(Middle.bind(Last.bind()))
alone = Alone.bind()
"""
CONFIG = """\
applications:
- name: graph
  route_prefix: /graph
  import_path: graph:{application}
  runtime_env: {{working_dir: ., env_vars: {{SIGNS: "{signs}"}}}}
"""
RUNNING = 8
"""Requests that run in the ingress when something goes."""
ANSWER = (200, "first middle last")


class Graph:
    """The application in a mesh, and what is sent to it."""

    def __init__(self, mesh: MeshProcess, directory: Path) -> None:
        self.mesh = mesh
        self.code, self.signs = directory / "code", directory / "signs"
        self.code.mkdir()
        self.signs.mkdir()
        (self.code / "graph.py").write_text(CODE)
        self._pool = ThreadPoolExecutor(RUNNING)

    def deploy(self, application: str, *flags: str) -> None:
        """Deploy, and wait until it has come true."""
        (self.code / "mesh.yaml").write_text(CONFIG.format(application=application, signs=self.signs))
        done = self.mesh.meshctl("deploy", "mesh.yaml", *flags, cwd=self.code)
        assert done.code == 0, done.stderr

    def get(self, query: str = "") -> tuple[int, str]:
        """Send a request and return status and body."""
        with httpx.Client(trust_env=False, timeout=60) as client:
            answer = client.get(f"{self.mesh.http}/graph{query}")
        return answer.status_code, answer.text

    def drains(self) -> bool:
        """Whether a replica of the ingress was told to stop, and finishes what it runs."""
        (application,) = self.mesh.meshctl("status", "-o", "json").json()["applications"]
        (first,) = (each for each in application["deployments"] if each["name"] == "First")
        return "DRAINING" in {replica["status"]["state"] for replica in first["replicas"]}

    def replicas(self) -> list[psutil.Process]:
        """Return the processes of replicas."""
        found = []
        for process in self.mesh.children():
            with suppress(psutil.Error):
                found += [process] if "mesh.worker.replica" in process.cmdline() else []
        return found

    @contextmanager
    def running(self) -> Iterator[list[Future[tuple[int, str]]]]:
        """Have requests run in the ingress that call the next deployment only when the block is over."""
        sent = [self._pool.submit(self.get, f"?wait={number}") for number in range(RUNNING)]
        try:
            eventually(lambda: len(list(self.signs.glob("runs-*"))) == RUNNING, what="all run")
            yield sent
        finally:
            (self.signs / "open").touch()
            self._pool.shutdown()


CHILD = """\
import mesh


@mesh.deployment(num_replicas=2)
class Child:
    async def told(self) -> str:
        return "WORD"
"""
INGRESS = """\
import mesh
from child import Child
from starlette.requests import Request


@mesh.deployment(num_replicas=2)
class Ingress:
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    async def __call__(self, request: Request) -> str:
        return "WORD " + await self.child.told.remote()


app = Ingress.bind(Child.bind())
"""
UPDATED = """\
applications:
- name: updated
  route_prefix: /updated
  import_path: ingress:app
  runtime_env: {{working_dir: "local://{directory}"}}
"""
BETWEEN = 200
"""Requests before each update, and of those after it the number that nothing old answers."""
UPDATES = {
    # Which deployments get new code, and what the two answer with afterwards.
    ("Child",): ("1", "22"),
    ("Ingress",): ("22", "22"),
    ("Child", "Ingress"): ("333", "333"),
}
"""Words differ in length: compiled code of the same second and size would be taken for the new one."""


@pytest.mark.long
def test_updates_of_child_ingress_and_both_under_load_fail_nothing(mesh: MeshProcess, tmp_path: Path) -> None:
    def write(ingress: str, child: str) -> None:
        (tmp_path / "ingress.py").write_text(INGRESS.replace("WORD", ingress))
        (tmp_path / "child.py").write_text(CHILD.replace("WORD", child))

    before = ("1", "1")
    write(*before)
    (tmp_path / "mesh.yaml").write_text(UPDATED.format(directory=tmp_path))
    done = mesh.meshctl("deploy", "mesh.yaml", cwd=tmp_path)
    assert done.code == 0, done.stderr
    with Steady(f"{mesh.http}/updated") as steady:
        for deployments, after in UPDATES.items():
            steady.more(BETWEEN)
            begun = len(steady.answers)
            assert set(steady.answers[-BETWEEN:]) == {(200, " ".join(before))}
            write(*after)
            done = mesh.meshctl("restart", "updated", *deployments, timeout=120)
            assert done.code == 0, done.stderr
            new = [(200, " ".join(after))] * BETWEEN
            eventually(lambda new=new: steady.answers[-BETWEEN:] == new, what="all is new")  # type: ignore[misc]
            mixed = {
                (200, f"{ingress} {child}") for ingress in (before[0], after[0]) for child in (before[1], after[1])
            }
            assert set(steady.answers[begun:]) <= mixed
            before = after


@pytest.fixture
def graph(mesh: MeshProcess, tmp_path: Path) -> Graph:
    graph = Graph(mesh, tmp_path)
    graph.deploy("graph")
    assert graph.get() == ANSWER
    return graph


def test_what_runs_when_its_application_is_deleted_calls_its_children_to_the_end(graph: Graph) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    with ThreadPoolExecutor(1) as beside:

        def steadily() -> None:
            while 404 not in {status for status, _ in answers}:
                status, body = graph.get()
                answers[status, body if status == 200 else ""] += 1

        with graph.running() as sent:
            steady = beside.submit(steadily)
            eventually(lambda: answers, what="others are answered")
            done = graph.mesh.meshctl("delete", "graph", "--no-wait")
            assert done.code == 0, done.stderr
            steady.result()
            eventually(graph.drains, what="the ingress drains")
        assert [each.result() for each in sent] == [ANSWER] * RUNNING
    assert set(answers) == {ANSWER, (404, "")}, answers
    eventually(lambda: not graph.mesh.meshctl("status", "-o", "json").json()["applications"], what="it is gone")


def test_what_runs_when_a_revision_leaves_out_its_children_calls_them_to_the_end(graph: Graph) -> None:
    with graph.running() as sent:
        graph.deploy("alone")
        assert graph.get() == (200, "alone")
        eventually(graph.drains, what="the old ingress drains")
    assert [each.result() for each in sent] == [ANSWER] * RUNNING
    eventually(lambda: len(graph.replicas()) == 1, what="only the new ingress is left")
