"""Limits through `meshctl gateway --processes 2`: each process is a caller of its own, the replica's limit is one."""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mesh_process import FREE_PORTS, MeshProcess, eventually

ONGOING, QUEUED, BURST = 2, 2, 9
CODE = """\
import asyncio
import os

import mesh

PLACE = {place!r}


@mesh.deployment
def hello(request):
    return "hello"


@mesh.deployment(max_ongoing_requests={ongoing}, max_queued_requests={queued})
class Gated:
    running = most = 0

    async def __call__(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        while not os.path.exists(PLACE + request.query_params["gate"]):
            await asyncio.sleep(0.002)
        self.running -= 1
        return str(self.most)


greeting, gated = hello.bind(), Gated.bind()
"""
CONFIG = """\
applications:
- {name: gated, route_prefix: /gated, import_path: limits:gated, runtime_env: {working_dir: code}}
- {name: hello, route_prefix: /hello, import_path: limits:greeting, runtime_env: {working_dir: code}}
"""
PORTS = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")


class Burst:
    """Requests that are sent at once, each on a connection of its own."""

    def __init__(self, connections: list[HTTPConnection], path: str) -> None:
        self._open = list(connections)
        self.answers: list[tuple[int, str]] = []
        for each in connections:
            each.request("GET", path)

    def until_answered(self, count: int) -> list[int]:
        """Wait until so many are answered; return their statuses."""
        eventually(lambda: self.answered() >= count, what=f"{count} answers: {self.answers}")
        return [status for status, _ in self.answers]

    def answered(self) -> int:
        """Take the answers that are there; return how many there are in all."""
        by_socket = {each.sock: each for each in self._open}
        for ready in select.select(by_socket, (), (), 0)[0]:
            connection = by_socket[ready]
            answer = connection.getresponse()
            self.answers.append((answer.status, answer.read().decode()))
            self._open.remove(connection)
        return len(self.answers)


class TwoProcesses:
    """Connections to each of two gateway processes, and what their metrics say."""

    def __init__(self, gateway: MeshProcess) -> None:
        self._gateway = gateway
        self._scrapes = httpx.Client(timeout=30)
        self.connections: dict[str, list[HTTPConnection]] = {}
        while len(self.connections) < 2 or min(map(len, self.connections.values())) < BURST:
            # The kernel chooses a process for each connection; whose count grows has got this one.
            before = self.samples("mesh_requests_total")
            connection = HTTPConnection(gateway.http.removeprefix("http://"))
            connection.request("GET", "/hello")
            assert connection.getresponse().read() == b"hello"
            (process,) = self.samples("mesh_requests_total") - before
            self.connections.setdefault(process, []).append(connection)

    def close(self) -> None:
        """Close all connections."""
        self._scrapes.close()
        for connections in self.connections.values():
            for each in connections:
                each.close()

    def samples(self, name: str) -> Counter[str]:
        """Return a metric of each process, summed over its labels."""
        counts: Counter[str] = Counter()
        for family in text_string_to_metric_families(self._scrapes.get(f"{self._gateway.admin}/metrics").text):
            for sample in family.samples:
                if sample.name == name:
                    counts[sample.labels["process"]] += int(sample.value)
        return counts

    def until(self, process: str, *, sent: int, waiting: int) -> None:
        """Wait until a process has so many requests at the replica, and so many that wait."""

        def found() -> tuple[int, int]:
            return self.samples("mesh_requests_in_flight")[process], self.samples("mesh_requests_queued")[process]

        eventually(lambda: found() == (sent, waiting), what=f"{sent} are sent and {waiting} wait: {found()}")

    def burst(self, process: str, gate: str, *, after: int = 0, count: int = BURST) -> Burst:
        """Send requests at once to one process, on connections after the first so many."""
        return Burst(self.connections[process][after : after + count], f"/gated?gate={gate}")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoProcesses]:
    (tmp_path / "code").mkdir()
    code = CODE.format(place=f"{tmp_path}/open-", ongoing=ONGOING, queued=QUEUED)
    (tmp_path / "code" / "limits.py").write_text(code)
    (tmp_path / "mesh.yaml").write_text(CONFIG)
    data = ("--data-dir", str(tmp_path / "data"))
    with MeshProcess("start", *data, *FREE_PORTS, cwd=tmp_path) as mesh:
        deployed = mesh.meshctl("deploy", "mesh.yaml", cwd=tmp_path)
        assert deployed.code == 0, deployed.stderr
        with MeshProcess("gateway", "--control", mesh.control, "--processes", "2", *PORTS, cwd=tmp_path) as gateway:
            eventually(lambda: httpx.get(f"{gateway.admin}/readyz").status_code == 200, what="both are ready")
            found = TwoProcesses(gateway)
            yield found
            found.close()


def test_the_replicas_limit_is_one_and_each_process_has_a_line_of_its_own(two: TwoProcesses, tmp_path: Path) -> None:
    first, second = two.connections
    one = two.burst(first, "one")
    assert one.until_answered(BURST - ONGOING - QUEUED) == [503] * (BURST - ONGOING - QUEUED)
    two.until(first, sent=ONGOING, waiting=QUEUED)
    # The other process takes the replica for free, learns that it is not, and has nothing but its line.
    other = two.burst(second, "one", count=1)
    two.until(second, sent=0, waiting=1)
    more = two.burst(second, "one", after=1, count=BURST - 1)
    assert more.until_answered(BURST - QUEUED) == [503] * (BURST - QUEUED)
    two.until(second, sent=0, waiting=QUEUED)
    two.until(first, sent=ONGOING, waiting=QUEUED)
    (tmp_path / "open-one").touch()
    for burst, count in ((one, BURST), (other, 1), (more, BURST - 1)):
        burst.until_answered(count)
    served = [body for burst in (one, other, more) for status, body in burst.answers if status == 200]
    assert len(served) == ONGOING + QUEUED + QUEUED
    assert max(served) == str(ONGOING)

    # At once, neither knows of the other: what the replica refuses goes back to the line that it came from.
    bursts = [two.burst(process, "both") for process in (first, second)]

    def settled() -> bool:
        answered = sum(burst.answered() for burst in bursts)
        sent, waiting = two.samples("mesh_requests_in_flight"), two.samples("mesh_requests_queued")
        return sent.total() == ONGOING and answered + sent.total() + waiting.total() == 2 * BURST

    eventually(settled, what="all are answered, run or wait")
    (tmp_path / "open-both").touch()
    for burst in bursts:
        burst.until_answered(BURST)
        accepted = [body for status, body in burst.answers if status == 200]
        assert QUEUED <= len(accepted) <= ONGOING + QUEUED
        assert set(accepted) == {str(ONGOING)}
