"""What takes messages in the converters and in the readers of HTTP's forms of them, and what it may do with one."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from mesh.errors import HandlerFailed, MeshError
from mesh.gateway.answer import MethodFailed, Unsupported
from mesh.gateway.rest_table import Endpoint, RestTable
from mesh.gateway.rest_wires import ConnectWire, JsonWire, WebWire, Wire
from mesh.transcode.json_codec import Codec, Codecs, JsonOptions
from mesh.transcode.path_text import Malformed, canonical, decoded
from mesh.transcode.refusals import BadJson, CannotRender, RequestRefused
from mesh.transcode.router import Match
from mesh.transcode.schema import Schema
from tests.fuzz import text_mutations, wire_mutations
from tests.fuzz.inputs import Outcome, check_words
from tests.support import everything

EVERYTHING, LEGACY = "everything.v1.Everything", "legacy.v1.Legacy"
SERVICE = "everything.v1.EverythingService"
STARTS = 250
_OPTIONS = [JsonOptions(*(bool(number & bit) for bit in (1, 2, 4))) for number in range(8)]
CONTENT_TYPES = (
    *("", "application/json", "application/json", "application/json", "application/json; charset=utf-8", "text/plain"),
    *("application/proto", "application/grpc-web", "application/grpc-web-text", "application/grpc-web+proto", "\xff"),
    *("application/grpc-web+json", "application/x-ndjson", "application/" + "j" * 300 + "+json", "application/json;;;"),
)


@cache
def schema() -> Schema:
    """Return the schema of the service with every kind of field."""
    return Schema.load(everything.descriptor_set())


def names_of(descriptor: Descriptor) -> list[str]:
    """Return all names of the fields of a type."""
    return sorted({name for field in descriptor.fields for name in (field.name, field.json_name)})


class Kind:
    """One message type with its codecs, starting points, and mutators."""

    def __init__(self, name: str, random: Random) -> None:
        pool = everything.pool()
        self.descriptor = pool.FindMessageTypeByName(name)
        self.new: Any = everything.message_class(name)
        self.codecs: list[Codec] = [Codecs(pool, options).get(self.descriptor) for options in _OPTIONS]
        self.codec = self.codecs[0]
        drawn = [wire_mutations.draw(self.descriptor, random) for _ in range(STARTS)]
        self.starts = [wire_mutations.serialized(message) for message in drawn]
        every = [wire_mutations.draw(self.descriptor, random, depth=2) for _ in range(STARTS // 10)]
        large: Any = self.new()
        for message in every:
            large.MergeFrom(message)
        self.starts += [wire_mutations.serialized(large)]
        numbers = [field.number for field in self.descriptor.fields]
        own = [field.number for field in self.descriptor.fields if _nests(field)]
        self.wire = wire_mutations.Wire(self.starts, numbers, own)
        texts = [text for i, message in enumerate(drawn) if (text := self._rendered(message, i)) is not None]
        self.json = text_mutations.Json(texts, names_of(self.descriptor))

    def _rendered(self, message: Message, number: int) -> bytes | None:
        try:
            value = json.loads(self.codecs[number % len(self.codecs)].render(message))
        except CannotRender:
            return None
        # The keys of a map have no order that another process would have too.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _nests(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.message_type.GetOptions().map_entry


class Converters:
    """Wire to JSON and back, and JSON to wire and back."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def from_wire(self, data: bytes) -> Outcome:
        """Check one serialized message. What has a JSON form must be read back as the same."""
        kind = self._kind
        try:
            message = kind.new.FromString(data)
        except DecodeError:
            return "no message"
        codec = kind.codecs[len(data) % len(kind.codecs)]
        try:
            text = codec.render(message)
        except CannotRender as error:
            _told(error)
            return "without a JSON form"
        assert b"\n" not in text
        try:
            again = codec.parse(text)
        except BadJson as error:
            if "required fields" not in error.reason:
                raise
            return "incomplete"
        assert same(codec.render(again), text), f"read back as another: {text!r}"
        return "converted"

    def from_json(self, text: bytes) -> Outcome:
        """Check one JSON text. What is accepted must be a message that its receiver can read, and have a JSON form."""
        kind = self._kind
        try:
            message = kind.codec.parse(text)
        except BadJson as error:
            _told(error)
            return "refused"
        data = message.SerializeToString()
        again = kind.new.FromString(data)
        rendered = kind.codec.render(again)
        assert same(kind.codec.render(kind.codec.parse(rendered)), rendered), f"read back as another: {rendered!r}"
        return "converted"


def same(one: bytes, other: bytes) -> bool:
    return one == other or _without_null(json.loads(one)) == _without_null(json.loads(other))


def _without_null(value: Any) -> Any:
    """A NullValue that is none of the enum's is written as null, and read as nothing."""
    if isinstance(value, dict):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    return list(map(_without_null, value)) if isinstance(value, list) else value


def _told(error: MeshError) -> None:
    """Check what would be said to a client: short, ASCII, nothing of what is inside."""
    assert len(error.message) < 4000 and error.message.isascii() and error.message.isprintable(), error.message
    check_words(error)


@dataclass(frozen=True)
class Asked:
    """One request as a gateway takes it apart before it reads the body."""

    method: str
    path: bytes
    query: bytes
    content_type: str
    accept: str
    body: bytes
    answer: bytes


class Requests:
    """Requests to a `RestTable`, through routing, binding and each form of calls over HTTP, and answers back."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.table = RestTable(schema(), "/e", JsonOptions())
        methods = schema().services[SERVICE].methods.values()
        self._rpc = [b"/e" + method.rpc_path.encode() for method in methods]
        ruled = [(rule.http_method, rule.template_text) for method in methods for rule in method.rules]
        self._rules = [(method, text_mutations.Path([b"/e" + _plain(template).encode()])) for method, template in ruled]
        self._query = text_mutations.Query(names_of(kind.descriptor))

    def make(self, random: Random) -> Asked:
        """Return a request: mostly a JSON one to a path that exists."""
        if random.random() < 0.35:
            content_type, rpc = random.choice(CONTENT_TYPES), random.choice(self._rpc)
            return Asked("POST", rpc, b"", content_type, "", self._body(content_type, random), self._kind.wire(random))
        (method, path), query = random.choice(self._rules), b""
        if random.random() < 0.1:
            method = random.choice(("HEAD", "POST", "OPTIONS", "\xff", "get", "*", ""))
        if random.random() < 0.5:
            query = self._query(random)
        content_type, body = "", b""
        if method in ("POST", "PUT", "PATCH") or random.random() < 0.1:
            content_type = random.choice(CONTENT_TYPES) if random.random() < 0.2 else "application/json"
            body = self._kind.json(random)
        accept = random.choice(
            ("", "text/event-stream", "application/json;q=0.1,*/*;q=x", "\xff,;;q=", ",".join("a" * 50))
        )
        return Asked(method, path(random), query, content_type, accept, body, self._kind.wire(random))

    def _body(self, content_type: str, random: Random) -> bytes:
        if "json" in content_type and "grpc" not in content_type:
            return self._kind.json(random)
        message = self._kind.wire(random)
        if "grpc-web" not in content_type:
            return message
        body = b"\0" + len(message).to_bytes(4, "big") + message
        if random.random() < 0.3:
            body = random.choice((b"\1", b"\x80", b"\0\0")) + body[1:]
        if random.random() < 0.2:
            body = body[: random.randrange(len(body) + 1)]
        if "text" in content_type:
            body = base64.b64encode(body)
            if random.random() < 0.5:
                at = random.randrange(len(body) + 1)
                body = body[:at] + random.choice((b"=", b"==", b"!", b"\n", b"-", b"=" * 3000, b"")) + body[at + 1 :]
        return body

    def check(self, asked: Asked) -> Outcome:
        """Take one request apart, and put its answer together."""
        _check_path(asked.path)
        found = self.table.match(asked.method, asked.path)
        if not isinstance(found, Match):
            return type(found).__name__
        wire = self._wire(found.value, found.captures, asked)
        if wire is None:
            return "wrong content type"
        self._answer(found.value, wire, asked)
        try:
            message = wire.request(asked.body)
            if isinstance(wire, JsonWire):
                wire.part(asked.body)
        except RequestRefused as error:
            _told(error)
            _refusal(wire, error)
            return f"refused {type(wire).__name__}"
        except Unsupported:
            return "compressed"
        found.value.request_class.FromString(message)
        return f"taken {type(wire).__name__}"

    def echoed(self, asked: Asked) -> bytes | None:
        """Return the body of the answer of a method that answers with its request; None if that has no form."""
        found = self.table.match(asked.method, asked.path)
        assert isinstance(found, Match)
        wire = self._wire(found.value, found.captures, asked)
        assert wire is not None
        try:
            body = wire.response(wire.request(asked.body))
        except HandlerFailed:
            return None
        return body + wire.end((), first=False) if isinstance(wire, WebWire) else body

    def _wire(self, endpoint: Endpoint, captures: tuple[tuple[str, str], ...], asked: Asked) -> Wire | None:
        try:
            if endpoint.is_rpc_path and asked.content_type.startswith("application/grpc-web"):
                return WebWire(endpoint, asked.content_type)
            if endpoint.is_rpc_path and asked.content_type.startswith("application/proto"):
                return ConnectWire(endpoint, asked.content_type)
        except RequestRefused:
            return None
        return JsonWire(endpoint, captures, asked.query, asked.content_type, asked.accept)

    def _answer(self, endpoint: Endpoint, wire: Wire, asked: Asked) -> None:
        """What a replica sends may be anything too; only HandlerFailed may come of it."""
        trailing = (b"x-own", asked.answer[:20], b"grpc-status-details-bin", asked.answer)
        for turn in (
            wire.response,
            lambda message: wire.item(message, first=True) if isinstance(wire, (JsonWire, WebWire)) else b"",
        ):
            try:
                turn(asked.answer)
            except HandlerFailed:
                continue
        wire.headers(trailing)
        if len(asked.answer) % 8 == 0:
            _refusal(wire, MethodFailed(len(asked.body) % 20, asked.path.decode("latin-1"), asked.answer, trailing))


def _check_path(path: bytes) -> None:
    """A path is decoded as the standard library does it, or malformed."""
    try:
        canonical(path)
    except Malformed:
        return
    assert decoded(path.decode("latin-1")) == unquote_to_bytes(path).decode()


def _refusal(wire: Wire, error: MeshError) -> None:
    status, _, body = wire.refusal(error, "id")
    assert 200 <= status < 600 and b"Traceback" not in body


def _plain(template: str) -> str:
    """Return a path that a template matches."""
    path, _, verb = template.rpartition("}")
    return (
        "/".join("7" if part.startswith("{") else part for part in f"{path}}}".split("/")) + verb if path else template
    )
