"""Connect's unary form and gRPC-Web, at the methods' own paths."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.rest import BARE, DO, MANY, RestPath, messages, rest_path, told

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECT = {"connect-protocol-version": "1"}
PROTO = {**CONNECT, "content-type": "application/proto"}
BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text+proto"
SUM = "/rest.v1.Rest/Sum"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RestPath]:
    async with rest_path(tmp_path_factory.mktemp("rest"), message_bytes_max=1_000_000) as path:
        await path.serve()
        yield path


@dataclass
class Web:
    """An answer of gRPC-Web."""

    http: httpx.Response
    messages: list[bytes]
    trailers: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.trailers["grpc-status"])


async def web(
    rest: RestPath, path: str, message: bytes, *, kind: str = BINARY, headers: Mapping[str, str] | None = None
) -> Web:
    """Call a method with one message."""
    body = _framed(message)
    content = base64.b64encode(body) if kind == TEXT else body
    answer = await rest.post(
        path, content=content, headers={"content-type": kind, "x-grpc-web": "1", **(headers or {})}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind and answer.headers["x-request-id"]
    return read(answer)


def read(answer: httpx.Response) -> Web:
    body = answer.content
    if "text" in answer.headers["content-type"]:
        body = b"".join(base64.b64decode(piece + b"=" * (-len(piece) % 4)) for piece in body.split(b"=") if piece)
    found: list[bytes] = []
    while body:
        flag, size = body[0], int.from_bytes(body[1:5], "big")
        part, body = body[5 : 5 + size], body[5 + size :]
        if flag == 0x80:
            assert not body and part.endswith(b"\r\n")
            return Web(answer, found, dict(line.split(": ", 1) for line in part.decode("ascii").split("\r\n") if line))
        assert flag == 0
        found.append(part)
    raise AssertionError("no trailers")


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def ask(**fields: Any) -> bytes:
    data: bytes = messages().Ask(**fields).SerializeToString()
    return data


def texts(found: list[bytes]) -> list[str]:
    return [messages().Told.FromString(message).text for message in found]


# Connect


@pytest.mark.parametrize("path", [BARE, DO])
async def test_connect_in_json_and_in_proto(rest: RestPath, path: str) -> None:
    answer = await rest.post(path, json={"id": "a"}, headers=CONNECT)
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (
        200,
        "application/json",
        {"text": "a"},
    )
    answer = await rest.post(path, content=ask(id="b"), headers=PROTO)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/proto")
    assert texts([answer.content]) == ["b"]
    no_version = await rest.post(path, content=ask(id="c"), headers={"content-type": "application/proto"})
    assert texts([no_version.content]) == ["c"]


async def test_connects_empty_messages(rest: RestPath) -> None:
    answer = await rest.post(BARE, content=b"", headers=PROTO)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await rest.post(BARE, content=b"{}", headers={**CONNECT, "content-type": "application/json"})).json() == {}


async def test_connect_tells_metadata(rest: RestPath) -> None:
    for answer in (await rest.connect("metadata"), await rest.post(BARE, content=ask(what="metadata"), headers=PROTO)):
        assert answer.headers.get_list("x-first") == ["yes", "again"]
        assert (answer.headers["trailer-x-last"], answer.headers["trailer-x-last-bin"]) == ("yes", "AP4=")


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error of an answer in Connect's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()
    assert error.pop("code") == code, answer.text
    return error


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(1, 499, "canceled"), (3, 400, "invalid_argument"), (8, 429, "resource_exhausted"), (13, 500, "internal")],
)
async def test_connects_errors(rest: RestPath, number: int, status: int, code: str) -> None:
    answer = await rest.connect("abort", count=number, id="as it says")
    assert refused(answer, status, code) == {"message": "as it says"}
    assert answer.headers["trailer-x-own"] == "yes"
    proto = await rest.post(BARE, content=ask(what="abort", count=number, id="x"), headers=PROTO)
    assert refused(proto, status, code) == {"message": "x"}


async def test_connects_details(rest: RestPath) -> None:
    answer = await rest.connect("rich")
    error = refused(answer, 400, "invalid_argument")
    kinds = [detail["type"] for detail in error["details"]]
    assert kinds == [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "rest.v1.Told",
        "no.such.Type",
        "google.rpc.ErrorInfo",
    ]
    assert error["details"][3]["value"] == "CAE"
    own = error["details"][2]["value"]
    assert texts([base64.b64decode(own + "=" * (-len(own) % 4))]) == ["own"]
    assert "trailer-grpc-status-details-bin" not in answer.headers


async def test_what_connect_clients_get_wrong(rest: RestPath) -> None:
    for version in ("2", "x", ""):
        answer = await rest.connect(headers={"connect-protocol-version": version})
        assert refused(answer, 400, "invalid_argument") == {"message": "connect-protocol-version: must be 1"}
    zipped = await rest.post(BARE, content=b"x", headers={**PROTO, "content-encoding": "gzip"})
    assert refused(zipped, 501, "unimplemented") == {"message": "bodies with the content encoding 'gzip' are not taken"}
    refused(
        await rest.post(BARE, content=b"x", headers={**CONNECT, "content-type": "text/plain"}), 415, "invalid_argument"
    )
    refused(await rest.connect(nope=1), 400, "invalid_argument")
    refused(await rest.post(BARE, content=b"\xff\xff", headers=PROTO), 400, "invalid_argument")
    refused(await rest.connect(headers={"connect-timeout-ms": "soon"}), 400, "invalid_argument")
    refused(await rest.connect(headers={"x-wrong-bin": "%"}), 400, "invalid_argument")
    refused(await rest.post(BARE, content=bytes(1_400_000), headers=PROTO), 413, "invalid_argument")
    for path in (MANY, SUM):
        refused(await rest.post(path, json={}, headers=CONNECT), 415, "invalid_argument")
        stream = {**CONNECT, "content-type": "application/connect+json"}
        refused(await rest.post(path, content=b"{}", headers=stream), 415, "invalid_argument")
    told(await rest.post("/rest.v1.Rest/None", json={}, headers=CONNECT), 404, "UNIMPLEMENTED")
    await rest.until_free()


@pytest.mark.parametrize("kind", ["application/connect+json", "application/connect+proto"])
async def test_connects_streams_are_not_taken_for_a_unary_method(rest: RestPath, kind: str) -> None:
    """Their bodies are frames, with and without the header that a Connect client sends."""
    for path, body in ((BARE, b"{}"), ("/v1/do", b"{}"), (BARE, b"")):
        told(await rest.post(path, content=body, headers={"content-type": kind}), 415, "INVALID_ARGUMENT")
    for body in (b"{}", b""):
        refused(await rest.post(BARE, content=body, headers={**CONNECT, "content-type": kind}), 415, "invalid_argument")
    await rest.until_free()


async def test_connects_answer_to_what_user_code_raised(rest: RestPath) -> None:
    error = refused(await rest.connect("raises"), 500, "internal")
    assert "secret" not in error["message"]


async def test_a_stream_at_its_own_path_in_json(rest: RestPath) -> None:
    answer = await rest.post(MANY, json={"id": "a", "count": 2})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"text": "a"}, {"text": "a", "count": 1}]


# gRPC-Web


@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_web_unary(rest: RestPath, kind: str) -> None:
    for path in (BARE, DO):
        answer = await web(rest, path, ask(id="a"), kind=kind)
        assert (texts(answer.messages), answer.trailers) == (["a"], {"grpc-status": "0"})
    assert (await web(rest, BARE, b"", kind=kind)).messages == [b""]


@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_web_streams(rest: RestPath, kind: str) -> None:
    answer = await web(rest, MANY, ask(id="a", count=3), kind=kind)
    assert texts(answer.messages) == ["a", "a", "a"]
    assert answer.trailers == {"grpc-status": "0", "x-last": "yes"}
    nothing = await web(rest, MANY, ask(count=0), kind=kind)
    assert (nothing.messages, nothing.status) == ([], 0)
    late = await web(rest, MANY, ask(what="late", id="a", count=1), kind=kind)
    assert texts(late.messages) == ["a"]
    assert late.trailers == {"grpc-status": "10", "grpc-message": "it broke", "x-own": "yes"}


async def test_short_names_of_the_type(rest: RestPath) -> None:
    for kind in ("application/grpc-web", "application/grpc-web; charset=utf-8", "Application/gRPC-Web+Proto"):
        answer = await rest.post(BARE, content=_framed(ask(id="a")), headers={"content-type": kind})
        assert answer.headers["content-type"] == BINARY and texts(read(answer).messages) == ["a"]
    body = base64.b64encode(_framed(ask(id="a"))[:5]) + base64.b64encode(ask(id="a"))  # in two padded pieces
    answer = await rest.post(BARE, content=body, headers={"content-type": "application/grpc-web-text"})
    assert answer.headers["content-type"] == TEXT and texts(read(answer).messages) == ["a"]


@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_web_errors_are_trailers_alone(rest: RestPath, kind: str) -> None:
    for path in (BARE, MANY):
        what = "abort" if path == BARE else "early"
        answer = await web(rest, path, ask(what=what, count=5, id="there is none"), kind=kind)
        assert (answer.messages, answer.status) == ([], 5)
        assert answer.trailers["grpc-message"] == "there is none"


async def test_a_web_status_is_told_whole(rest: RestPath) -> None:
    rich = await web(rest, BARE, ask(what="rich"))
    assert (rich.status, rich.trailers["x-own"]) == (3, "yes")
    assert base64.b64decode(rich.trailers["grpc-status-details-bin"])[:2] == b"\x08\x03"
    odd = await web(rest, BARE, ask(what="odd-message"))
    assert (odd.status, odd.trailers["grpc-message"]) == (10, 'a%25%0D%0A%00"%C3%A9%F0%9F%98%88%E2%80%A8')
    metadata = await web(rest, BARE, ask(what="metadata"))
    assert metadata.http.headers.get_list("x-first") == ["yes", "again"]
    assert metadata.trailers == {"grpc-status": "0", "x-last": "yes", "x-last-bin": "AP4="}
    number = await web(rest, BARE, ask(what="code", count=17, id="odd"))
    assert (number.status, number.trailers["grpc-message"]) == (2, "odd")
    quota = await web(rest, BARE, ask(what="quota"))
    assert (quota.status, quota.trailers["grpc-message"]) == (8, "your quota is used up")
    assert set(quota.trailers) == {"grpc-status", "grpc-message", "grpc-retry-pushback-ms", "retry-after", "x-kept"}
    forged = await web(rest, BARE, ask(what="forged"))
    assert (texts(forged.messages), forged.status) == (["as usual"], 0)
    raised = await web(rest, BARE, ask(what="raises"))
    assert raised.status == 13 and "secret" not in raised.trailers["grpc-message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\0\0\5ab",
        b"\0\0\0\0\0x",
        b"\x80\0\0\0\0",
        b"\0\xff\xff\xff\xff",
        _framed(b"\xff"),
        _framed(b"") * 2,
    ],
)
async def test_a_web_body_that_is_not_one_message(rest: RestPath, body: bytes) -> None:
    answer = read(await rest.post(BARE, content=body, headers={"content-type": BINARY}))
    assert (answer.messages, answer.status) == ([], 3)
    await rest.until_free()


async def test_what_web_clients_get_wrong(rest: RestPath) -> None:
    for body in (b"!", b"AAAA=", b"A=" * 2000):
        assert read(await rest.post(BARE, content=body, headers={"content-type": TEXT})).status == 3
    zipped = read(await rest.post(BARE, content=b"\1\0\0\0\1x", headers={"content-type": BINARY}))
    assert (zipped.status, zipped.trailers["grpc-message"]) == (12, "compressed messages are not taken")
    encoded = await web(rest, BARE, b"", headers={"content-encoding": "gzip"})
    assert encoded.status == 12
    assert (await web(rest, SUM, b"")).status == 12
    assert (await web(rest, BARE, b"", headers={"grpc-timeout": "1x"})).status == 3
    assert (await web(rest, BARE, b"", headers={"x-wrong-bin": "%"})).status == 3
    too_large = await web(rest, BARE, bytes(1_000_001))
    assert too_large.status == 3
    told(
        await rest.post(BARE, content=b"", headers={"content-type": "application/grpc-web+json"}),
        415,
        "INVALID_ARGUMENT",
    )
    told(await rest.post("/v1/do", content=_framed(b""), headers={"content-type": BINARY}), 415, "INVALID_ARGUMENT")
    await rest.until_free()
