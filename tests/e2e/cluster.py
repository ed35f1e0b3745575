"""A mesh of separate processes: a real etcd, and any number of control planes, workers and gateways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mesh.clock import SYSTEM
from tests.support.etcd import EtcdCluster
from tests.support.mesh_process import MeshProcess, Result, eventually, meshctl

CODE = """\
import asyncio
import os
import time

import mesh
from starlette.requests import Request


@mesh.deployment
class Who:
    async def __call__(self, request: Request):
        await asyncio.sleep(float(request.query_params.get("s", 0)))
        return {"pid": os.getpid(), "parent": os.getppid()}


@mesh.deployment(max_ongoing_requests=2, max_queued_requests=2)
class Two:
    def __call__(self, request: Request):
        time.sleep(float(request.query_params.get("s", 0.2)))
        return {"pid": os.getpid()}


who = Who.bind()
two = Two.bind()
"""
WHO = """\
- name: who
  route_prefix: /who
  import_path: served:who
  deployments:
  - name: Who
    num_replicas: 2
"""
TWO = """\
- name: two
  route_prefix: /two
  import_path: served:two
"""


@dataclass
class Cluster:
    """The processes, by role."""

    directory: Path
    store: str
    etcd: EtcdCluster
    control_planes: list[MeshProcess] = field(default_factory=list)
    workers: list[MeshProcess] = field(default_factory=list)
    gateways: list[MeshProcess] = field(default_factory=list)

    @property
    def control(self) -> str:
        """Addresses of all control planes, as for MESH_ADDRESS."""
        return ",".join(process.control for process in self.control_planes)

    def meshctl(self, *args: str, timeout: float = 60.0) -> Result:
        """Run a command against this cluster."""
        return meshctl(*args, cwd=self.directory, env={"MESH_ADDRESS": self.control}, timeout=timeout)

    def deploy(self, *applications: str) -> Result:
        """Deploy a config file of these applications."""
        path = self.directory / "mesh.yaml"
        path.write_text("applications:\n" + "".join(applications))
        return self.meshctl("deploy", str(path))

    def status(self) -> Any:
        """Return the status as JSON."""
        done = self.meshctl("status", "-o", "json")
        assert done.code == 0, done.stderr
        return done.json()

    def replicas(self, application: str) -> list[Any]:
        """Return the placements of an application's replicas."""
        return [
            replica
            for found in self.status()["applications"]
            if found["name"] == application
            for deployment in found["deployments"]
            for replica in deployment["replicas"]
        ]

    def ready_pids(self, application: str) -> set[int]:
        """Return the process ids of an application's ready replicas."""
        return {r["status"]["pid"] for r in self.replicas(application) if r["status"]["state"] == "READY"}

    def leader(self) -> MeshProcess:
        """Return the control plane that leads."""
        address = self.status()["leader"]
        return next(process for process in self.control_planes if process.control == address)

    def start_control_plane(self, *args: str) -> MeshProcess:
        """Start one more control plane."""
        flags = ("--store", self.store, "--admin-port", "0", *(args or ("--port", "0")))
        process = MeshProcess("controlplane", *flags, cwd=self.directory)
        self.control_planes.append(process)
        return process

    def start_worker(self, name: str) -> MeshProcess:
        """Start one more worker."""
        data = ("--data-dir", f"{self.directory}-data")  # beside the code, which is packed
        flags = ("--id", name, "--control", self.control, "--admin-port", "0", *data)
        process = MeshProcess("worker", *flags, cwd=self.directory)
        self.workers.append(process)
        return process

    def start_gateway(self, *args: str) -> MeshProcess:
        """Start one more gateway."""
        ports = args or ("--port", "0", "--grpc-port", "0")
        flags = ("--control", self.control, *ports, "--admin-port", "0")
        process = MeshProcess("gateway", *flags, cwd=self.directory)
        self.gateways.append(process)
        return process


@contextlib.contextmanager
def running(directory: Path, *, control_planes: int = 2, workers: int = 2, gateways: int = 2) -> Iterator[Cluster]:
    """Run a cluster of its own on a real etcd; at the end every process is interrupted and proven gone."""
    (directory / "served.py").write_text(CODE)
    with EtcdCluster() as etcd, contextlib.ExitStack() as stack:
        addresses = ",".join(endpoint for endpoint in etcd.endpoints)
        cluster = Cluster(directory, f"etcd://{addresses}/mesh-{SYSTEM.token()}", etcd)
        stack.callback(end, cluster)
        for _ in range(control_planes):
            cluster.start_control_plane().wait_ready()
        for i in range(workers):
            cluster.start_worker(f"w{i + 1}")
        for _ in range(gateways):
            cluster.start_gateway()
        for process in (*cluster.workers, *cluster.gateways):
            process.wait_ready()
        yield cluster


def end(cluster: Cluster) -> None:
    """Interrupt what still runs, gateways first, and prove that nothing is left."""
    try:
        for role in (cluster.gateways, cluster.workers, cluster.control_planes):
            # All at once: one worker would give its replicas to the next.
            for process in (process for process in role if process.returncode is None):
                process.interrupt()
            for process in role:
                process.wait()
                process.assert_gone()
    finally:
        for process in (*cluster.gateways, *cluster.workers, *cluster.control_planes):
            process.kill()


def get(url: str, **parameters: Any) -> httpx.Response:
    """GET past any proxy of the environment."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.get(url, params=parameters)


def served(url: str, timeout: float = 20.0) -> httpx.Response:
    """Return the first 200 of `url`."""

    def answered() -> httpx.Response | None:
        response = get(url)
        return response if response.status_code == 200 else None

    return eventually(answered, what=f"200 from {url}", timeout=timeout)
