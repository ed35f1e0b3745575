"""granian against uvicorn as host of the gateway's ASGI application, everything else the same.

Each runs in a process of its own, in front of the same replica of `Noop`; loads are interleaved, so that the
machine's moods hit both. Run: python -m benchmarks.http_servers
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.generators import generate
from benchmarks.trees import HERE
from mesh import wire
from mesh.clock import SYSTEM
from mesh.gateway.http_front import HttpFront
from mesh.gateway.http_server import HttpServer, bind
from mesh.gateway.pipeline import Pipeline
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, RuntimeEnv
from mesh.settings import GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.worker.launch import framed

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
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writer], start_new_session=True)
    os.close(writer)
    assert process.stdin is not None
    process.stdin.write(framed(wire.to_proto(spec, deployment_pb2.ReplicaSpec).SerializeToString()))
    process.stdin.flush()
    with os.fdopen(reader) as status:
        return process, json.loads(status.readline())["address"]


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
        print(server.address, flush=True)
        await asyncio.Event().wait()
    import uvicorn

    listener = bind(settings.host, 0, settings.backlog)
    print("{}:{}".format(*listener.getsockname()[:2]), flush=True)
    config = uvicorn.Config(front, log_level="warning", access_log=False, lifespan="off", http="httptools", loop="none")
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Measure both and print medians and their ratio."""
    if len(sys.argv) == 3:
        uvloop.run(serve(sys.argv[1], sys.argv[2]))
        return
    behind, address = replica()
    fronts: dict[str, tuple[subprocess.Popen[str], str]] = {}
    figures: dict[str, dict[int, list[dict[str, Any]]]] = {}
    try:
        for name in ("granian", "uvicorn"):
            command = [sys.executable, "-m", "benchmarks.http_servers", name, address]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
            assert process.stdout is not None
            fronts[name] = (process, f"http://{process.stdout.readline().strip()}/")
            figures[name] = {1: [], 64: []}
            generate("load", fronts[name][1], seconds=1.0)
        for _ in range(RUNS):
            for name, (process, url) in fronts.items():
                for connections, taken in figures[name].items():
                    before = sum(psutil.Process(process.pid).cpu_times()[:2])
                    run = generate("load", url, connections=connections, seconds=2.0)
                    spent = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
                    taken.append({**run, "gateway_cpu_us": spent / run["requests"] * 1e6})
    finally:
        for process, _ in fronts.values():
            process.kill()
        behind.kill()
    keys = ("per_second", "p50_ms", "p99_ms", "gateway_cpu_us")
    for name, by_connections in figures.items():
        for connections, taken in by_connections.items():
            shown = {key: round(statistics.median(run[key] for run in taken), 2) for key in keys}
            print(name, connections, json.dumps(shown))


if __name__ == "__main__":
    main()
