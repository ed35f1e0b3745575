"""What the gRPC benchmarks measure: one servicer, generated at run time, behind mesh and on a plain grpc.aio server.

Run as a module with a directory that `generate` filled, this is the plain server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path

import uvloop

from benchmarks.trees import Mesh, Served, ServerFailed

HERE = Path(__file__).parent
GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
"""What mesh sets for its own processes (docs/decisions/0004)."""
NAME = "greeter.v1.Greeter"
DESCRIPTOR_SET = "greeter.binpb"


def generate(directory: Path) -> Path:
    """Write messages, stubs, the descriptor set and the service's code into `directory`; return it."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    found = find_spec("google.api")
    assert found is not None
    assert found.submodule_search_locations is not None
    bundled, annotations = resources.files("grpc_tools") / "_proto", Path(next(iter(found.submodule_search_locations)))
    flags = [f"-I{HERE}", f"-I{bundled}", f"-I{annotations.parents[1]}", "--include_imports"]
    flags += [f"--python_out={directory}", f"--grpc_python_out={directory}"]
    flags += [f"--descriptor_set_out={directory / DESCRIPTOR_SET}"]
    if protoc.main(["protoc", *flags, str(HERE / "greeter.proto")]):
        raise ServerFailed("protoc failed on greeter.proto")
    for name in ("greeter_servicer.py", "greeter_service.py"):
        shutil.copy(HERE / name, directory)
    return directory


def mesh_run(directory: Path, application: str = "greeter_service:app") -> Served:
    """Serve the servicer as a deployment; `said` has "grpc", "http" and "admin"."""
    return Mesh(application, directory=directory)


def plain(directory: Path, *, as_mesh: bool) -> Served:
    """Serve the same servicer with grpc.aio and nothing else; `said` has "grpc".

    `as_mesh`: in a process with the settings of mesh's own: uvloop, grpc's older event loop, a tuned collector.
    """
    command = [sys.executable, "-m", "benchmarks.greeter", str(directory), *(["--as-mesh"] if as_mesh else [])]
    return Served(command, {"GRPC_EXPERIMENTS": GRPC_EXPERIMENTS} if as_mesh else None)


async def _serve(directory: str) -> None:
    import grpc

    sys.path.insert(0, directory)
    servicer, stubs = import_module("greeter_servicer"), import_module("greeter_pb2_grpc")
    server = grpc.aio.server()
    stubs.add_GreeterServicer_to_server(servicer.Greeter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Be the plain server until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--as-mesh", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if not arguments.as_mesh:
        asyncio.run(_serve(arguments.directory))
        return
    from mesh.lifecycle import tune_memory

    tune_memory()
    uvloop.run(_serve(arguments.directory))


if __name__ == "__main__":
    main()
