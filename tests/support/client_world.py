"""Applications of a real mesh for tests of clients: what they do is told by the request, and when by files.

`Probe` runs one request at a time and lets none wait; it answers over HTTP and, as native.v1.Probe, over gRPC.
`Plain` has no such limits. The word in a request's id says what happens: "gate-NAME" waits for the file open-NAME,
"lost" ends the replica's process while there is a file "mortal", "raise" raises, "missing" is NOT_FOUND. Each run is
a line in the file "ran".
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.native import generated

CODE = """
import asyncio
import os
import signal

import grpc
from native.v1 import native_pb2, native_pb2_grpc
from starlette.requests import Request

import mesh


async def run(word, abort=None):
    with open("ran", "a") as ran:
        ran.write(word + "\\n")
    if word.startswith("gate-"):
        try:
            while not os.path.exists("open-" + word[5:]):
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            with open("ran", "a") as ran:
                ran.write("cancelled " + word + "\\n")
            raise
    if word == "lost" and os.path.exists("mortal"):
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "raise":
        raise ValueError("secret")
    if word == "missing" and abort is not None:
        await abort(grpc.StatusCode.NOT_FOUND, "nothing of that name")
    return word


class Served(native_pb2_grpc.ProbeServicer):
    async def Unary(self, ask, context):
        return native_pb2.Told(text=await run(ask.id, context.abort))

    Repeat = Unary

    async def Many(self, ask, context):
        await run(ask.id, context.abort)
        for i in range(ask.count):
            yield native_pb2.Told(text=ask.id, count=i)

    async def Sum(self, requests, context):
        count = 0
        async for ask in requests:
            count += ask.count
        return native_pb2.Told(count=count)

    async def Chat(self, requests, context):
        async for ask in requests:
            yield native_pb2.Told(text=await run(ask.id, context.abort))

    async def __call__(self, request: Request):
        return {"ran": await run(request.query_params.get("id", ""))}


@mesh.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Probe(Served):
    pass


@mesh.deployment(max_ongoing_requests=50, max_queued_requests=50)
class Plain(Served):
    pass


probe = Probe.bind()
plain = Plain.bind()
"""
CONFIG = """\
applications:
- {{name: probe, route_prefix: /probe, import_path: "served:probe", runtime_env: {{working_dir: "{directory}"}}}}
- {{name: plain, route_prefix: /plain, import_path: "served:plain", runtime_env: {{working_dir: "{directory}"}}}}
"""


class ClientWorld:
    """The directory of the code: its replicas work there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(generated(), directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (directory / "served.py").write_text(CODE)
        self.config = directory / "mesh.yaml"
        self.config.write_text(CONFIG.format(directory=directory))

    def ran(self) -> list[str]:
        """Return the words of all runs, in order."""
        found = self.directory / "ran"
        return found.read_text().splitlines() if found.exists() else []

    def open(self, gate: str) -> None:
        """Let those go on that wait at a gate."""
        (self.directory / f"open-{gate}").touch()
