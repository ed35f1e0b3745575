"""granian against uvicorn as host of the gateway's ASGI application, everything else the same.

Each runs in a process of its own, in front of the same replica of `Noop`; loads are interleaved, so that the
machine's moods hit both. Needs httptools beside what is locked, for uvicorn as it is usually run.
Run: python -m benchmarks.http_servers
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys

import uvloop

from benchmarks.forked import die_with
from benchmarks.generators import closed, interleaved
from benchmarks.report import medians
from benchmarks.trees import HERE, Served, ServerFailed
from mesh import wire
from mesh.clock import SYSTEM
from mesh.gateway.http_front import HttpFront
from mesh.gateway.http_server import HttpServer, bind
from mesh.gateway.pipeline import Pipeline
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, RuntimeEnv
from mesh.settings import GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.worker.launch import Surroundings, framed

RUNS = 5
LIMIT = 1000


def replica() -> tuple[subprocess.Popen[bytes], str]:
    """Start a replica of `Noop` and return it with its address."""
    spec = ReplicaSpec(
        replica_id="noop",
        application="noop",
        deployment="Noop",
        config=ApplicationConfig(import_path="noop:noop", runtime_env=RuntimeEnv(working_dir=str(HERE))),
        settings=DeploymentSettings(max_ongoing_requests=LIMIT),
    )
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "mesh.worker.replica", "--status-fd", str(writer), "--parent", str(os.getpid())]
    end_with_us = functools.partial(die_with, os.getpid())
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[writer], start_new_session=True, preexec_fn=end_with_us
    )
    os.close(writer)
    assert process.stdin is not None
    process.stdin.write(framed(wire.to_proto(spec, deployment_pb2.ReplicaSpec).SerializeToString()))
    process.stdin.write(framed(Surroundings().message()))
    process.stdin.flush()
    with os.fdopen(reader) as status:
        for line in status:
            if "address" in (told := json.loads(line)):
                return process, told["address"]
    raise ServerFailed("the replica did not start; its words are above")


async def serve(host: str, replica_address: str) -> None:
    """Serve the replica behind a gateway front, hosted by `host`, until killed."""
    snapshot = pb.Snapshot()
    snapshot.generation.epoch = snapshot.generation.number = 1
    application = snapshot.applications.add(name="noop", route_prefix="/", ingress="Noop")
    deployment = application.deployments.add(name="Noop", max_ongoing_requests=LIMIT, max_queued_requests=LIMIT)
    deployment.endpoints.add(replica_id="noop", address=replica_address)
    settings = GatewaySettings(port=0)
    pipeline = Pipeline(settings, SYSTEM)
    pipeline.apply(snapshot)
    front = HttpFront(pipeline)
    if host == "granian":
        server = HttpServer(front, settings)
        server.listen()
        await server.serve()
        print(json.dumps({"http": f"http://{server.address}"}), flush=True)
        await asyncio.Event().wait()
    import uvicorn

    listener = bind(settings.host, 0, settings.backlog)
    config = uvicorn.Config(front, log_level="warning", access_log=False, lifespan="off", http="httptools", loop="none")
    config.load()
    print(json.dumps({"http": "http://{}:{}".format(*listener.getsockname()[:2])}), flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Measure both and print medians and their ratio."""
    if len(sys.argv) == 3:
        uvloop.run(serve(sys.argv[1], sys.argv[2]))
        return
    behind, address = replica()
    try:
        with _front("granian", address) as granian, _front("uvicorn", address) as uvicorn:
            fronts = {"granian": granian, "uvicorn": uvicorn}
            ways = {
                f"{name} {count}": functools.partial(closed, served, "/", connections=count, seconds=2.0)
                for count in (1, 64)
                for name, served in fronts.items()
            }
            for served in fronts.values():
                closed(served, "/", connections=64, seconds=1.0)
            taken = interleaved(ways, RUNS)
    finally:
        behind.kill()
        behind.wait()
    for name, runs in taken.items():
        print(name, json.dumps(medians(runs, ("per_second", "p50_ms", "p99_ms", "server_cpu_us"))))


def _front(name: str, address: str) -> Served:
    return Served([sys.executable, "-m", "benchmarks.http_servers", name, address])


if __name__ == "__main__":
    main()
