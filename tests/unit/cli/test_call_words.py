"""The words of `call`: names, metadata, requests, and errors of the other side."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from mesh.cli import call_words
from mesh.cli.fail import exit_code, rendered
from mesh.cli.json_input import Text
from mesh.errors import InvalidConfig, MeshError, NotFound
from mesh.transcode.schema import Schema
from tests.support.calls_service import CALLS, calls_descriptors

SERVICES = ["a.v1.Books", "a.v1.Shelves", "grpc.health.v1.Health"]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema.load(calls_descriptors().SerializeToString(), [CALLS])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.v1.Books/Get", ("a.v1.Books", "Get")),
        ("/a.v1.Books/Get", ("a.v1.Books", "Get")),
        (" a.v1.Books.Get", ("a.v1.Books", "Get")),
        ("a.v1.Books", ("a.v1.Books", "")),
        ("a.v1.Books/", ("a.v1.Books", "")),
    ],
)
def test_named(text: str, meant: tuple[str, str]) -> None:
    assert call_words.named(text, SERVICES) == meant


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a.v2.Books/Get", "did you mean a.v1.Books/Get?"),
        ("books/Get", "did you mean a.v1.Books/Get?"),
        ("a.v1.Bookss/Get", "did you mean a.v1.Books/Get?"),
        ("zzz/Get", "it has a.v1.Books, a.v1.Shelves, grpc.health.v1.Health"),
    ],
)
def test_an_unknown_service(text: str, hint: str) -> None:
    with pytest.raises(NotFound) as raised:
        call_words.named(text, SERVICES)
    assert raised.value.hint == hint


@pytest.mark.parametrize("text", ["Get", "", "/"])
def test_no_method(text: str) -> None:
    with pytest.raises((InvalidConfig, NotFound)):
        call_words.named(text, SERVICES)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("unary", f"{CALLS} has no method unary", f"did you mean {CALLS}/Unary?"),
        ("Zzz", f"{CALLS} has no method Zzz", "it has Unary, Many, Sum, Chat"),
        ("", f"{CALLS} is a service; name one of its methods too", "it has Unary, Many, Sum, Chat"),
    ],
)
def test_an_unknown_method(schema: Schema, name: str, message: str, hint: str) -> None:
    with pytest.raises(NotFound) as raised:
        call_words.chosen(schema.services[CALLS], name)
    assert (raised.value.message, raised.value.hint) == (message, hint)


def test_metadata() -> None:
    words = ["A: b:c ", "x-bin:AAE=", "y-bin:AAE", "empty:"]
    assert call_words.metadata(words, "old") == (
        ("a", "b:c"),
        ("x-bin", b"\0\1"),
        ("y-bin", b"\0\1"),
        ("empty", ""),
        ("application", "old"),
    )


@pytest.mark.parametrize(
    "word", ["a", ":b", "a b:c", "ä:b", "a:ä", "a:\r\n", "a:b\r\nc:d", "grpc-timeout:1S", "a-bin:?"]
)
def test_wrong_metadata(word: str) -> None:
    if word == "a:\r\n":  # Blank around a value is no part of it.
        assert call_words.metadata([word], "") == (("a", ""),)
        return
    with pytest.raises(InvalidConfig):
        call_words.metadata([word], "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "f:4: a request is a JSON object"),
        ('"x"', "f:4: a request is a JSON object"),
        ('{"a":\n1,}', "f:5:3: Expecting property name enclosed in double quotes"),
        ('{"txt": 1}', "f:4: calls.v1.Note has no field 'txt'"),
        ('{"count": "x"}', "f:4: Failed to parse count field"),
        ('{"count": 1, "count": 2}', "f:4: duplicate key count"),
        ("{" * 100_000, "f:4"),
        ('{"text": "\ud800"}', "f:4"),
    ],
)
def test_wrong_requests(schema: Schema, text: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        call_words.request(Text(text, "f", 4), schema.services[CALLS].methods["Unary"], schema)
    assert raised.value.message.startswith(message)


@pytest.mark.parametrize(
    ("code", "exit_with"),
    [
        ("NOT_FOUND", 3),
        ("UNIMPLEMENTED", 3),
        ("UNAVAILABLE", 5),
        ("DEADLINE_EXCEEDED", 6),
        ("INVALID_ARGUMENT", 1),
        ("CANCELLED", 1),
        ("UNKNOWN", 1),
    ],
)
def test_statuses(code: str, exit_with: int) -> None:
    error = call_words.failure(code, "", (), None)
    assert (error.message, exit_code(error)) == (code, exit_with)


def test_details_are_told_and_cannot_harm_a_terminal() -> None:
    status = status_pb2.Status(code=8)
    for known in (error_details_pb2.ErrorInfo(reason="FULL\x1b[31m"), error_details_pb2.RetryInfo()):
        status.details.add().Pack(known)
    status.details.append(AnyMessage(type_url="x/y.Z", value=b"123"))
    status.details.append(AnyMessage(type_url="x/google.rpc.ErrorInfo", value=b"\xff"))
    trailers = (("grpc-status-details-bin", status.SerializeToString()), ("grpc-retry-pushback-ms", "1500"))
    error = call_words.failure("RESOURCE_EXHAUSTED", "full\x1b[2J\r", trailers, None)
    told = rendered(error)
    assert told.splitlines() == [
        "error: RESOURCE_EXHAUSTED: full?[2J?",
        '  why: ErrorInfo {"reason": "FULL\\u001b[31m"}',
        "       RetryInfo {}",
        "       y.Z (3 bytes)",
        "       ErrorInfo (1 bytes)",
        "  fix: try again in 1.5 s",
    ]


def test_broken_details() -> None:
    error = call_words.failure("INTERNAL", "x", (("grpc-status-details-bin", b"\xff"),), None)
    assert isinstance(error, MeshError)
    assert error.message == "INTERNAL: x\nits details cannot be read"
