"""`meshctl gateway --processes`: several processes behind the same ports, which end and begin again as one."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mesh_process import FREE_PORTS, MeshProcess, eventually

CODE = """\
import mesh


@mesh.deployment
def hello(request):
    return "hello"


app = hello.bind()
"""
CONFIG = """\
applications:
- name: default
  route_prefix: /
  import_path: many:app
  runtime_env: {working_dir: code}
"""
PORTS = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")


def of(gateway: MeshProcess) -> list[psutil.Process]:
    return [child for child in gateway.children() if "mesh.cli.gateway_process" in child.cmdline()]


def served_by(gateway: MeshProcess) -> Counter[str]:
    """Return how many requests each process has answered."""
    families = text_string_to_metric_families(httpx.get(f"{gateway.admin}/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    counts: Counter[str] = Counter()
    for sample in samples:
        if sample.name == "mesh_requests_total":
            counts[sample.labels["process"]] += int(sample.value)
    return counts


@pytest.mark.long
def test_processes_share_the_ports_and_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "many.py").write_text(CODE)
    (tmp_path / "mesh.yaml").write_text(CONFIG)
    data = ("--data-dir", str(tmp_path / "data"))
    with MeshProcess("start", *data, *FREE_PORTS, cwd=tmp_path) as mesh:
        deployed = mesh.meshctl("deploy", "mesh.yaml", cwd=tmp_path)
        assert deployed.code == 0, deployed.stderr
        with MeshProcess("gateway", "--control", mesh.control, "--processes", "2", *PORTS, cwd=tmp_path) as gateway:
            eventually(lambda: httpx.get(f"{gateway.admin}/readyz").status_code == 200, what="both are ready")

            def both() -> bool:
                # A connection each: the kernel chooses a process for each of them.
                assert httpx.get(f"{gateway.http}/").text == "hello"
                return len(served_by(gateway)) == 2

            eventually(both, what="both serve")
            status = mesh.meshctl("status").stdout
            assert "3 gateways" in status, status

            first, second = of(gateway)
            first.send_signal(signal.SIGKILL)
            gateway.wait_line("stderr", lambda line: "starting it again" in line)
            eventually(lambda: len(of(gateway)) == 2 and first not in of(gateway), what="it is replaced")
            assert second in of(gateway)
            eventually(lambda: httpx.get(f"{gateway.admin}/readyz").status_code == 200, what="both are ready again")


def test_what_listens_already_is_not_shared(tmp_path: Path) -> None:
    with MeshProcess("gateway", "--processes", "2", *PORTS, cwd=tmp_path) as gateway:
        port = gateway.http.rpartition(":")[2]
        other = ("--processes", "2", "--port", port, "--grpc-port", "0", "--admin-port", "0")
        done = gateway.meshctl("gateway", *other, cwd=tmp_path)
        assert done.code == 4, done.stderr
        assert f"127.0.0.1:{port}" in done.stderr
