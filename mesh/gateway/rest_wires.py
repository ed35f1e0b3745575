"""How HTTP clients write requests to methods and read their answers: JSON, Connect's unary form, and gRPC-Web.

Owns bodies, content types and errors of each form. What goes to the replica and comes back are the bytes of
messages. Pure. Called by `rest_front`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf import json_format
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from mesh.errors import HandlerFailed, MeshError, Overloaded
from mesh.gateway import answer
from mesh.gateway.answer import MethodFailed
from mesh.gateway.rest_heads import Headers, pairs
from mesh.gateway.rest_table import Endpoint
from mesh.pipe.messages import PREFIX_BYTES, framed
from mesh.transcode.binding import JSON_CONTENT_TYPE, is_json
from mesh.transcode.refusals import BadJson, CannotRender, RequestRefused
from mesh.transcode.streams import NDJSON_CONTENT_TYPES, StreamFormat, stream_format

_TRAILERS_FLAG = 0x80
_OCTETS = b"application/octet-stream"
_PIECES_MAX = 1000
_WEB = "application/grpc-web"
_CONNECT_CODES = {"CANCELLED": "canceled"}
_MALFORMED = "the application sent a message that is not of the method's type"


class Wire(Protocol):
    """One form of unary calls over HTTP. Raises RequestRefused for what clients send, HandlerFailed for bad answers."""

    content_type: bytes
    """Of an answer."""

    def request(self, body: bytes) -> bytes:
        """Return the one request message in a whole body."""

    def response(self, message: bytes) -> bytes:
        """Return the body of an answer of one message. It may set `content_type`."""

    def headers(self, trailing: Iterable[bytes]) -> Headers:
        """Return headers that tell of the trailing metadata, flat, of a unary answer."""

    def refusal(self, error: MeshError, request_id: str) -> tuple[int, Headers, bytes]:
        """Return status, headers and body of an answer that is an error."""


class StreamWire(Wire, Protocol):
    """A form that streams answers too."""

    def item(self, message: bytes, *, first: bool) -> bytes:
        """Return the bytes of one message of a stream. The first may set `content_type`."""

    def end(self, trailing: Iterable[bytes], *, first: bool) -> bytes:
        """Return the last bytes of a stream that ended well."""

    def broken(self, error: MeshError, request_id: str, *, first: bool) -> bytes | None:
        """Return the last bytes of a stream that failed on its way; None: it has no way to tell."""


class JsonWire:
    """REST: proto3 JSON by the HTTP rule. Streams of requests are lines; those of answers as Accept asks.

    `google.api.HttpBody` travels as it is: each piece of a body is a message of a stream, and the other way round.
    """

    __slots__ = ("_binding", "_captures", "_endpoint", "_format", "_query", "_request_type", "content_type", "raw")

    def __init__(
        self, endpoint: Endpoint, captures: tuple[tuple[str, str], ...], query: bytes, content_type: str, accept: str
    ) -> None:
        self._endpoint = endpoint
        self._binding = binding = endpoint.binding
        self._captures = captures
        self._query = query
        self._request_type = content_type
        self._format = stream_format(accept) if endpoint.method.server_streaming else StreamFormat.ARRAY
        self.content_type = _OCTETS if binding.raw_response else self._format.content_type.encode()
        self.raw = binding.raw_request
        """Whether bodies of requests are taken as they are."""

    def request(self, body: bytes) -> bytes:
        """See Wire."""
        return self._binding.request(self._captures, self._query, body, self._request_type).SerializeToString()

    def check_stream(self) -> None:
        """Refuse a stream of requests that does not call itself JSON lines."""
        media = self._request_type.partition(";")[0].strip().lower()
        if not self.raw and media not in NDJSON_CONTENT_TYPES:
            raise RequestRefused(415, "", "the content type of a stream of requests must be application/x-ndjson")

    def part(self, data: bytes) -> bytes:
        """Return the request message in one line, or in one piece of a raw body, of a stream."""
        content_type = self._request_type if self.raw else JSON_CONTENT_TYPE
        return self._binding.request(self._captures, self._query, data, content_type).SerializeToString()

    def response(self, message: bytes) -> bytes:
        """See Wire."""
        content_type, body = self._rendered(message)
        self.content_type = content_type.encode()
        return body

    def headers(self, trailing: Iterable[bytes]) -> Headers:
        """See Wire. REST clients do not see trailing metadata."""
        return []

    def item(self, message: bytes, *, first: bool) -> bytes:
        """See StreamWire."""
        content_type, body = self._rendered(message)
        if not self._binding.raw_response:
            return self._format.item(body, first=first)
        if first:
            self.content_type = content_type.encode()
        return body

    def end(self, trailing: Iterable[bytes], *, first: bool) -> bytes:
        """See StreamWire."""
        return b"" if self._binding.raw_response else self._format.end(first=first)

    def broken(self, error: MeshError, request_id: str, *, first: bool) -> bytes | None:
        """See StreamWire."""
        if self._binding.raw_response:
            return None
        fields = answer.fields_of(error, request_id) | self._more(error)
        return self._format.error(json.dumps({"error": fields}).encode(), first=first)

    def refusal(self, error: MeshError, request_id: str) -> tuple[int, Headers, bytes]:
        """See Wire."""
        return answer.problem(error, request_id, **self._more(error))

    def _more(self, error: MeshError) -> dict[str, Any]:
        if isinstance(error, MethodFailed) and error.details:
            return {"details": [shown for shown, _, _ in details_of(error, self._endpoint.codecs.pool)]}
        return {"field": error.field} if isinstance(error, RequestRefused) and error.field else {}

    def _rendered(self, message: bytes) -> tuple[str, bytes]:
        try:
            return self._binding.response(_parsed(self._endpoint, message))
        except CannotRender as error:
            raise HandlerFailed(f"the answer has no JSON form: {error.message}") from None


class ConnectWire:
    """Connect's unary form, in JSON or in protobuf's own."""

    __slots__ = ("_endpoint", "_json", "content_type")

    def __init__(self, endpoint: Endpoint, content_type: str) -> None:
        self._endpoint = endpoint
        self._json = is_json(content_type)
        if not self._json and content_type.partition(";")[0].strip().lower() != "application/proto":
            raise RequestRefused(415, "", "the content type must be application/json or application/proto")
        self.content_type = b"application/json" if self._json else b"application/proto"

    def request(self, body: bytes) -> bytes:
        """See Wire."""
        if not self._json:
            return _of_type(self._endpoint, body)
        try:
            return self._endpoint.request_codec.parse(body or b"{}").SerializeToString()
        except BadJson as error:
            raise RequestRefused(400, error.field, error.reason) from None

    def response(self, message: bytes) -> bytes:
        """See Wire."""
        if not self._json:
            return message
        try:
            return self._endpoint.response_codec.render(_parsed(self._endpoint, message))
        except CannotRender as error:
            raise HandlerFailed(f"the answer has no JSON form: {error.message}") from None

    def headers(self, trailing: Iterable[bytes]) -> Headers:
        """See Wire."""
        return _as_trailers(trailing)

    def refusal(self, error: MeshError, request_id: str) -> tuple[int, Headers, bytes]:
        """See Wire."""
        return connect_refusal(error, request_id, self._endpoint.codecs.pool)


class WebWire:
    """gRPC-Web, binary or in base64 text. Status and trailing metadata are the last frame of the body."""

    __slots__ = ("_endpoint", "_text", "content_type")

    def __init__(self, endpoint: Endpoint, content_type: str) -> None:
        self._endpoint = endpoint
        media = content_type.partition(";")[0].strip().lower()
        name, _, kind = media.partition("+")
        if name not in (_WEB, f"{_WEB}-text") or kind not in ("", "proto"):
            raise RequestRefused(415, "", f"the content type must be {_WEB}, {_WEB}-text, or either with +proto")
        self._text = name.endswith("-text")
        self.content_type = (f"{name}+proto").encode()

    def request(self, body: bytes) -> bytes:
        """See Wire."""
        data = _unbased(body) if self._text else body
        if data[:1] == b"\1":
            raise answer.Unsupported("compressed messages are not taken")
        if (
            len(data) < PREFIX_BYTES
            or data[0]
            or int.from_bytes(data[1:PREFIX_BYTES], "big") + PREFIX_BYTES != len(data)
        ):
            raise RequestRefused(400, "", "the body must be one gRPC-Web frame with a message")
        return _of_type(self._endpoint, data[PREFIX_BYTES:])

    def response(self, message: bytes) -> bytes:
        """See Wire."""
        return self._written(framed(message))

    def headers(self, trailing: Iterable[bytes]) -> Headers:
        """See Wire: they are in the body."""
        return []

    def item(self, message: bytes, *, first: bool) -> bytes:
        """See StreamWire."""
        return self._written(framed(message))

    def end(self, trailing: Iterable[bytes], *, first: bool) -> bytes:
        """See StreamWire."""
        return self._last("0", "", trailing)

    def broken(self, error: MeshError, request_id: str, *, first: bool) -> bytes:
        """See StreamWire."""
        told = answer.outcome(error)
        trailing: tuple[bytes, ...] = error.metadata if isinstance(error, MethodFailed) else ()
        if isinstance(error, Overloaded):
            trailing = (b"grpc-retry-pushback-ms", answer.pushback(error).encode())
        return self._last(str(answer.CODES.index(told.code)), answer.detail(error), trailing)

    def refusal(self, error: MeshError, request_id: str) -> tuple[int, Headers, bytes]:
        """See Wire."""
        body = self.broken(error, request_id, first=True)
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(body))]
        return 200, [*headers, (b"x-request-id", request_id.encode())], body

    def _last(self, status: str, message: str, trailing: Iterable[bytes]) -> bytes:
        lines = [b"grpc-status: " + status.encode()]
        if message:
            lines.append(b"grpc-message: " + quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode())
        lines += [name + b": " + value for name, value in pairs(trailing)]
        block = b"".join(line + b"\r\n" for line in lines)
        return self._written(bytes([_TRAILERS_FLAG]) + len(block).to_bytes(4, "big") + block)

    def _written(self, data: bytes) -> bytes:
        return base64.b64encode(data) if self._text else data


def connect_refusal(error: MeshError, request_id: str, pool: DescriptorPool) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of an error in Connect's form."""
    told = answer.outcome(error)
    document: dict[str, Any] = {
        "code": _CONNECT_CODES.get(told.code, told.code.lower()),
        "message": answer.detail(error),
    }
    headers: Headers = []
    if isinstance(error, MethodFailed):
        headers = _as_trailers(error.metadata)
        if error.details:
            document["details"] = [
                {"type": kind, "value": base64.b64encode(value).decode().rstrip("=")}
                for _, kind, value in details_of(error, pool)
            ]
    status, told_headers, _ = answer.problem(error, request_id)
    body = json.dumps(document).encode()
    kept = [pair for pair in told_headers if pair[0] not in (b"content-type", b"content-length")]
    length = (b"content-length", b"%d" % len(body))
    return status, [(b"content-type", b"application/json"), length, *kept, *headers], body


def _as_trailers(metadata: Iterable[bytes]) -> Headers:
    """Return trailing metadata as Connect has it. Details of a status are in its body."""
    return [(b"trailer-" + name, value) for name, value in pairs(metadata) if name != b"grpc-status-details-bin"]


def details_of(error: MethodFailed, pool: DescriptorPool) -> list[tuple[dict[str, Any], str, bytes]]:
    """Return each detail of a status: its JSON form, the full name of its type, and its bytes."""
    try:
        packed = Status.FromString(error.details).details
    except DecodeError:
        return []
    return [(_expanded(each, pool), each.type_url.rpartition("/")[2], each.value) for each in packed]


def _expanded(detail: Any, pool: DescriptorPool) -> dict[str, Any]:
    for known in (pool, Default()):
        try:
            shown = json_format.MessageToDict(detail, descriptor_pool=known)
        except (TypeError, ValueError, KeyError, RecursionError, DecodeError, json_format.Error):
            continue
        return dict(shown)
    return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}


def _unbased(body: bytes) -> bytes:
    """Return what base64 text says; it may be several padded pieces in a row."""
    pieces = body.split(b"=", _PIECES_MAX)
    try:
        return b"".join(base64.b64decode(piece + b"=" * (-len(piece) % 4), validate=True) for piece in pieces if piece)
    except binascii.Error:
        raise RequestRefused(400, "", "the body is not base64") from None


def _of_type(endpoint: Endpoint, message: bytes) -> bytes:
    """Return a message as it came, if it is of the method's type."""
    try:
        endpoint.request_class.FromString(message)
    except DecodeError:
        raise RequestRefused(400, "", f"the message is no {endpoint.method.input.full_name}") from None
    return message


def _parsed(endpoint: Endpoint, message: bytes) -> Any:
    try:
        return endpoint.response_class.FromString(message)
    except DecodeError:
        raise HandlerFailed(_MALFORMED) from None
