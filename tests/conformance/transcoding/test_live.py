"""The conformance cases of the REST transcoder against a live gateway with a live replica behind it.

One replica serves every service that the cases need and answers with what it got; each group of routes is an
application under a route prefix of its own. Requests are written to the connection byte by byte.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.protobuf.message import Message

from mesh.model import DeploymentSettings
from mesh.transcode.schema import Schema
from mesh.v1 import deployment_pb2
from tests.conformance.transcoding import cases as body_cases
from tests.conformance.transcoding import routing_cases
from tests.support import everything, rule_services
from tests.support.data_path import Connection
from tests.support.gateways import Gateways, Routed
from tests.support.replicas import ReplicaProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECHO = Path(__file__).parents[2] / "support" / "echo_service.py"
EVERYTHING = "everything.v1.EverythingService"
ROUTING = routing_cases.cases()
REFUSED = routing_cases.refused()
BODIES = body_cases.load()
GROUPS = {case.group.name: case.group for case in ROUTING}
PACKAGES = {name: f"routes_{i}" for i, name in enumerate(GROUPS)}
DESCRIPTORS = {name: rule_services.descriptor_set(PACKAGES[name], group.routes) for name, group in GROUPS.items()}


@cache
def everything_schema() -> Schema:
    return Schema.load(everything.descriptor_set())


class Live:
    """The gateway, and what it serves at present."""

    def __init__(self, gateways: Gateways, replica: ReplicaProcess) -> None:
        self.gateways = gateways
        self._endpoints = ((replica.replica_id, replica.address),)
        self._schemas = {name: Schema.load(data) for name, data in DESCRIPTORS.items()}
        self._root: str | None = None

    async def serve_root(self, name: str) -> None:
        """Serve all groups, of those that need the root only this one."""
        if name != self._root:
            served = [each for each, group in GROUPS.items() if not group.at_root or each == name]
            await self.publish(*map(self._group, served), *self._everything())
            self._root = name

    async def publish(self, *applications: Routed) -> None:
        self._root = None
        await self.gateways.publish(*applications)

    def application(self, name: str, prefix: str, service: str, descriptors: bytes, **fields: Any) -> Routed:
        interface = rule_services.interface(service, descriptors)
        return Routed(name=name, prefix=prefix, endpoints=self._endpoints, interface=interface, **fields)

    def received(self, name: str, label: str, data: bytes) -> dict[str, str]:
        """Return the fields of a method's request: path to text."""
        schema = self._schemas[name]
        method = schema.services[f"{PACKAGES[name]}.Routes"].methods[label]
        return dict(_flat(schema.message_class(method.input).FromString(data)))

    def _group(self, name: str) -> Routed:
        package = PACKAGES[name]
        prefix = "/" if GROUPS[name].at_root else f"/{package}"
        return self.application(package, prefix, f"{package}.Routes", DESCRIPTORS[name])

    def _everything(self) -> Iterator[Routed]:
        for options in {tuple(case.options.items()) for case in BODIES}:
            name = _application(dict(options))
            made = deployment_pb2.JsonOptions(**dict(options))
            yield self.application(name, f"/{name}", EVERYTHING, everything.descriptor_set(), json=made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    directory = tmp_path_factory.mktemp("echo")
    shutil.copy(ECHO, directory)
    for name, data in DESCRIPTORS.items():
        (directory / f"{PACKAGES[name]}.set").write_bytes(data)
    (directory / "everything.set").write_bytes(everything.descriptor_set())
    settings = DeploymentSettings(max_ongoing_requests=2)
    replica = ReplicaProcess(directory, "echo_service:app", deployment="Handler", settings=settings)
    async with replica, Gateways() as gateways:
        made = Live(gateways, replica)
        await made.serve_root("")
        yield made


@pytest.mark.parametrize("case", ROUTING, ids=str)
async def test_route(live: Live, case: routing_cases.Case) -> None:
    group = case.group
    await live.serve_root(group.name if group.at_root else "")
    prefix = b"" if group.at_root else f"/{PACKAGES[group.name]}".encode()
    status, headers, body = await answered(live, case.http_method, prefix + case.raw_path)
    if group.raw and status == 400:
        return  # the server may refuse it before the path is looked at
    assert status == case.expected.status, body
    if status == 200:
        assert headers["x-route"] == case.expected.route
        captures = live.received(group.name, case.expected.route, base64.b64decode(headers["x-request-bin"]))
        assert captures == dict(case.expected.captures)
    elif case.http_method != "HEAD":
        problem = json.loads(body)
        assert (problem["status"], headers["content-type"]) == (status, "application/problem+json")
    assert tuple(headers.get("allow", "").split(", ")) == (case.expected.allow or ("",))


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case.id)
async def test_body(live: Live, case: body_cases.Case) -> None:
    await live.serve_root("")
    target = f"/{_application(case.options)}{case.path}".encode() + (b"?" + case.query.encode() if case.query else b"")
    fields = {"content-type": case.content_type} if case.content_type else {}
    status, headers, body = await answered(live, case.method, target, fields, case.body)
    assert status == case.status, body
    if status != 200:
        problem = json.loads(body)
        assert problem["code"] == "INVALID_ARGUMENT" and problem["detail"].isascii()
        assert not case.fields or problem.get("field", "") in case.fields
        return
    if "x-request-bin" in headers:
        schema = everything_schema()
        method = schema.services[EVERYTHING].methods[headers["x-route"]]
        message = schema.message_class(method.input).FromString(base64.b64decode(headers["x-request-bin"]))
        case.check_message(json_format.MessageToDict(message, descriptor_pool=schema.pool))
    case.check_answer(headers["content-type"], body)


async def test_routes_that_cannot_be_served_harm_no_others(live: Live) -> None:
    """The control plane refuses them; a gateway that gets them all the same goes on."""
    wrong = []
    for i, entry in enumerate(REFUSED):
        package = f"wrong_{i}"
        routes = {f"M{n}": route for n, route in enumerate(entry.routes)}
        descriptors = rule_services.descriptor_set(package, routes)
        wrong.append(live.application(package, f"/{package}", f"{package}.Routes", descriptors))
    good = live.application("good", "/good", "routes_0.Routes", DESCRIPTORS["literals"])
    await live.publish(*wrong, good)
    assert (await answered(live, "GET", b"/good/v1/shelves"))[0] == 200
    for i, entry in enumerate(REFUSED):
        status, _, body = await answered(live, entry.routes[0][0], f"/wrong_{i}/v1/a".encode())
        assert (status, b"Traceback" in body) == (404, False), entry


async def answered(
    live: Live, method: str, target: bytes, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a connection of its own and return status, headers and body."""
    connection = await Connection.open(live.gateways.gateway.http_address)
    try:
        fields = {"host": "test", **(headers or {})}
        if body or method not in ("GET", "HEAD", "DELETE"):
            fields["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.send(method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body)
        if method == "HEAD":
            return *(await connection.head()), b""
        return await connection.answer()
    finally:
        await connection.close()


def _application(options: Mapping[str, bool]) -> str:
    return "-".join(("everything", *options)).replace("_", "-")


def _flat(message: Message, path: str = "") -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if field.message_type is not None:
            yield from _flat(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value
