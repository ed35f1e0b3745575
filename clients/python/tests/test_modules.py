"""The control plane's messages beside those of the server in one process; what importing loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOGETHER = """
import importlib, sys
for package in sys.argv[1:]:
    for name in ("deployment", "deployment_service", "event", "event_service", "ingress_service", "revision_service"):
        importlib.import_module(f"{package}.v1.{name}_pb2_grpc")
        importlib.import_module(f"{package}.v1.{name}_pb2")

from google.protobuf import json_format
from mesh.v1 import deployment_service_pb2 as theirs
from mesh_client.v1 import deployment_pb2, deployment_service_pb2 as ours

assert ours.ApplyRequest is not theirs.ApplyRequest
assert ours.ApplyRequest.DESCRIPTOR.full_name == theirs.ApplyRequest.DESCRIPTOR.full_name == "mesh.v1.ApplyRequest"
assert ours.ApplyRequest.DESCRIPTOR.file.pool is not theirs.ApplyRequest.DESCRIPTOR.file.pool
config = deployment_pb2.Config(applications=[deployment_pb2.ApplicationConfig(name="a")])
request = ours.ApplyRequest(config=config, expected_revisions={"a": 3}, keep_others=True)
sent = theirs.ApplyRequest.FromString(request.SerializeToString())
assert sent.config.applications[0].name == "a" and sent.expected_revisions == {"a": 3}
assert ours.ApplyRequest.FromString(sent.SerializeToString()) == request
assert type(request.config) is deployment_pb2.Config
assert json_format.Parse(json_format.MessageToJson(request), ours.ApplyRequest()) == request
assert ours.CHANGE_DELETED == theirs.CHANGE_DELETED == ours.Change.Value("CHANGE_DELETED")
"""
ALONE = """
import sys
import mesh_client
loaded = {"mesh", "requests", "httpx", "mesh_client.v1"} & set(sys.modules)
assert not loaded, loaded
assert set(mesh_client.__all__) <= set(dir(mesh_client)) | {"Admin", "AsyncAdmin", "requests_session", "httpx_client",
                                                             "httpx_async_client"}
for name in mesh_client.__all__:
    getattr(mesh_client, name)
"""


def run(code: str, *args: str, **env: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protobuf", ["upb", "python"])
@pytest.mark.parametrize("order", [("mesh", "mesh_client"), ("mesh_client", "mesh")])
def test_both_in_one_process(protobuf: str, order: tuple[str, str]) -> None:
    run(TOGETHER, *order, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=protobuf)


def test_importing_loads_no_extra() -> None:
    run(ALONE)
