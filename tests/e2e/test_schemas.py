"""Schemas on a running mesh: which deploys are refused and how it is told; how a schema changes while calls run."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from google.protobuf.wrappers_pb2 import StringValue

from tests.support.mesh_process import MeshProcess, Result, eventually
from tests.unit.transcode.stubs import compile_protos

PROTO = """\
syntax = "proto3";
package shop.v1;
import "google/api/annotations.proto";
service Shop {{
  rpc Buy(Order) returns (Order) {{ option (google.api.http) = {{ post: "{path}" body: "*" }}; }}
  rpc Wait(Order) returns (Order);
  {methods}
}}
message Order {{ string text = 1; {fields} }}
{more}
"""
CODE = """\
import asyncio
import pathlib

import mesh
from shop.v1 import shop_pb2, shop_pb2_grpc


@mesh.deployment
class Shop(shop_pb2_grpc.ShopServicer):
    async def Buy(self, request, context):
        return shop_pb2.Order(text={answer!r} + request.text)

    Refund = Buy

    async def Wait(self, request, context):
        pathlib.Path(request.text + ".runs").touch()
        while not pathlib.Path(request.text).exists():
            await asyncio.sleep(0.02)
        return shop_pb2.Order(text={answer!r} + "waited")


app = Shop.bind()
"""
FIELD = "applications[0].import_path"


class Shop:
    """Writes shops, each with a schema and code of its own, and the config that deploys them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, path: str = "/orders", *, methods: str = "", fields: str = "", more: str = "") -> Path:
        """Write a shop that answers with its name, and generate its stubs. Returns its directory."""
        root = self.directory / name
        (root / "shop/v1").mkdir(parents=True)
        text = PROTO.format(path=path, methods=methods, fields=fields, more=more)
        (root / "shop/v1/shop.proto").write_text(text)
        compile_protos(root, root, "shop/v1/shop.proto")
        (root / "set.binpb").unlink()
        (root / f"{name}_app.py").write_text(CODE.format(answer=f"{name} "))
        return root

    def deploy(self, mesh: MeshProcess, **applications: Any) -> Result:
        """Deploy applications by name; each value says the shop's name and, as a dict, what else is configured."""
        config = []
        for name, value in applications.items():
            shop, more = value if isinstance(value, tuple) else (value, {})
            code = {"import_path": f"{shop}_app:app", "runtime_env": {"working_dir": str(self.directory / shop)}}
            config.append({"name": name, "route_prefix": f"/{name}", **code, **more})
        path = self.directory / "mesh.yaml"
        path.write_text(yaml.safe_dump({"applications": config}, sort_keys=False))
        return mesh.meshctl("deploy", str(path))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def channel(mesh: MeshProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, text: str = "", application: str = "") -> str:
    """Call a method of the shop. An Order is on the wire what a StringValue is."""
    metadata = (("application", application),) if application else ()
    answer: StringValue = multi(channel, method)(StringValue(value=text), timeout=20, metadata=metadata)
    return answer.value


def multi(channel: grpc.Channel, method: str) -> Any:
    return channel.unary_unary(
        f"/shop.v1.Shop/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


def code_of(channel: grpc.Channel, method: str, application: str = "") -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, application=application)
    error: Any = caught.value
    return error.code().name, error.details()


def post(url: str, text: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=20) as client:
        return client.post(url, json={"text": text})


def pids(mesh: MeshProcess) -> list[int]:
    found = mesh.meshctl("status", "-o", "json").json()
    deployments = [d for application in found["applications"] for d in application["deployments"]]
    return sorted(replica["status"]["pid"] for d in deployments for replica in d["replicas"])


def assert_refused(result: Result, *parts: str, code: int = 1) -> None:
    """The code, and one error with the place in the config; no traceback."""
    assert result.code == code, result.stderr
    assert "\nTraceback" not in result.stderr
    for part in ("mesh.yaml:", "import_path: ", "fix: ", *parts):
        assert part in result.stderr, result.stderr


def test_a_wrong_template_is_refused(mesh: MeshProcess, shop: Shop, channel: grpc.Channel) -> None:
    shop.write("good")
    shop.write("bad", "/orders/{text")
    result = shop.deploy(mesh, one="bad", two="good")
    assert_refused(result, FIELD, "the HTTP rule of 'shop.v1.Shop/Buy': the path '/orders/{text'")
    assert call(channel, "Buy", "x") == "good x", "everything else goes on"


@pytest.mark.long
def test_a_route_of_another_application_is_refused(mesh: MeshProcess, shop: Shop, channel: grpc.Channel) -> None:
    shop.write("outer", "/inner/orders")
    shop.write("inner", "/orders")
    assert shop.deploy(mesh, outer=("outer", {"route_prefix": "/"})).code == 0
    result = shop.deploy(mesh, inner="inner", outer=("outer", {"route_prefix": "/"}))
    assert_refused(result, FIELD, "POST '/inner/orders' of shop.v1.Shop/Buy is served by application 'outer' already")
    assert call(channel, "Buy", "x") == "outer x"
    assert post(f"{mesh.http}/inner/orders", "x").json() == {"text": "outer x"}
    moved = shop.deploy(mesh, inner=("inner", {"route_prefix": "/moved"}), outer=("outer", {"route_prefix": "/"}))
    assert moved.code == 0, moved.stderr


@pytest.mark.long
def test_descriptors_that_are_too_large_are_refused(mesh: MeshProcess, shop: Shop, channel: grpc.Channel) -> None:
    chance = random.Random(1)
    names = ("".join(chance.choices(string.ascii_letters + string.digits, k=900)) for _ in range(500))
    values = " ".join(f"V{name} = {i};" for i, name in enumerate(names))
    shop.write("good")
    shop.write("vast", fields="Kind kind = 2;", more=f"enum Kind {{ {values} }}")
    assert shop.deploy(mesh, one="good").code == 0
    result = shop.deploy(mesh, one="vast")
    assert_refused(result, FIELD, "bytes compressed; 262144 are allowed", "serve fewer services", code=7)
    assert call(channel, "Buy", "x") == "good x", "the revision before serves on"


@pytest.mark.long
def test_a_schema_changes_while_calls_of_the_old_one_finish(
    mesh: MeshProcess, shop: Shop, channel: grpc.Channel, tmp_path: Path
) -> None:
    shop.write("old")
    shop.write("new", "/changed", methods="rpc Refund(Order) returns (Order);", fields="int32 count = 2;")
    assert shop.deploy(mesh, shop="old").code == 0
    assert code_of(channel, "Refund")[0] == "UNIMPLEMENTED"
    waiting = multi(channel, "Wait").future(StringValue(value=str(tmp_path / "go")), timeout=60)
    eventually(lambda: (tmp_path / "go.runs").exists(), what="the old replica runs the call")
    assert shop.deploy(mesh, shop="new").code == 0
    eventually(lambda: call(channel, "Buy", "x") == "new x", what="the new revision serves")
    eventually(lambda: _refund(channel) == "new y", what="its new method is served")
    assert post(f"{mesh.http}/shop/changed", "z").json() == {"text": "new z"}
    assert post(f"{mesh.http}/shop/orders", "z").status_code == 404
    assert not waiting.done()
    (tmp_path / "go").touch()
    assert waiting.result().value == "old waited"


def _refund(channel: grpc.Channel) -> str:
    try:
        return call(channel, "Refund", "y")
    except grpc.RpcError:
        return ""


@pytest.mark.long
def test_json_options_restart_nothing(mesh: MeshProcess, shop: Shop) -> None:
    shop.write("plain")
    assert shop.deploy(mesh, shop="plain").code == 0
    before = pids(mesh)
    options = {"deployments": [{"name": "Shop", "json": {"emit_defaults": True}}]}
    assert shop.deploy(mesh, shop=("plain", options)).code == 0
    assert pids(mesh) == before, "the same build has the same version"
    written = yaml.safe_load(mesh.meshctl("config").stdout)
    assert written["applications"][0]["deployments"] == options["deployments"]


@pytest.mark.long
def test_one_service_in_two_applications(mesh: MeshProcess, shop: Shop, channel: grpc.Channel) -> None:
    shop.write("a")
    shop.write("b", fields="bool other = 2;")
    assert shop.deploy(mesh, one="a", two="b").code == 0
    assert call(channel, "Buy", "x", "one") == "a x"
    assert call(channel, "Buy", "x", "two") == "b x"
    code, details = code_of(channel, "Buy")
    assert code == "INVALID_ARGUMENT" and "one, two" in details
    assert code_of(channel, "Buy", "three")[0] == "UNIMPLEMENTED"
    assert post(f"{mesh.http}/one/orders", "x").json() == {"text": "a x"}
    assert post(f"{mesh.http}/two/orders", "x").json() == {"text": "b x"}
    assert shop.deploy(mesh, two="b").code == 0
    eventually(lambda: _plain(channel) == "b x", what="one is left, so that none need be named")


def _plain(channel: grpc.Channel) -> str:
    try:
        return call(channel, "Buy", "x")
    except grpc.RpcError:
        return ""
