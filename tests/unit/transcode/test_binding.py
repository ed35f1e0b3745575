"""Bindings: what is checked when one is made, and what the conformance cases do not reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from mesh.transcode.binding import Binding, is_json
from mesh.transcode.json_codec import Codecs
from mesh.transcode.refusals import BindingError, CannotRender, RequestRefused
from tests.support import everything

CODECS = Codecs(everything.pool())


@dataclass(frozen=True)
class Rule:
    http_method: str = "POST"
    body: str = ""
    response_body: str = ""


@dataclass(frozen=True)
class Method:
    input: Descriptor
    output: Descriptor
    full_name: str = "everything.v1.EverythingService/Get"


def binding(rule: Rule, *variables: str, request: str = "Everything", answer: str = "Everything") -> Binding:
    input_type, output_type = (
        everything.descriptor(name if "." in name else f"everything.v1.{name}") for name in (request, answer)
    )
    return Binding(rule, Method(input_type, output_type), variables, CODECS)


def new(name: str) -> Any:
    return everything.message_class(name)()


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("nope", "'nope': no such field in everything.v1.Everything"),
        ("int32Value", "no such field"),
        ("part.nope", "no such field in everything.v1.Part"),
        ("int32_value.x", "no such field in 'int32_value', which is no message"),
        ("strings", "'strings', which is repeated"),
        ("parts.name", "'parts', which is repeated"),
        ("labels", "'labels', which is a map"),
        ("part_by_name.x", "'part_by_name', which is a map"),
        ("part", "names a message, everything.v1.Part"),
        ("time", "names a message, google.protobuf.Timestamp"),
        ("wrapped_string", "names a message"),
        ("child." * 101 + "name", "nested too deep"),
    ],
)
def test_variables_that_no_path_can_set(variable: str, words: str) -> None:
    with pytest.raises(BindingError, match="EverythingService/Get") as caught:
        binding(Rule("GET"), variable)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("rule", "variables", "words"),
    [
        (Rule(body="nope"), (), "body names 'nope'"),
        (Rule(body="part.name"), (), "body names 'part.name'"),
        (Rule(body="otherName"), (), "body names 'otherName'"),
        (Rule(response_body="nope"), (), "response_body names 'nope'"),
        (Rule(body="name"), ("name",), "is the body too"),
        (Rule(), ("name", "name"), "in the template twice"),
        (Rule(), ("choice_int", "choice_text"), "which it sets both, are in one oneof"),
        (Rule(), ("choice_part.name", "choice_text"), "which it sets both, are in one oneof"),
        (Rule(body="choice_part"), ("choice_text",), "which it sets both, are in one oneof"),
        (Rule(), ("part.round", "part.square"), "which it sets both, are in one oneof"),
    ],
)
def test_rules_that_do_not_fit(rule: Rule, variables: tuple[str, ...], words: str) -> None:
    with pytest.raises(BindingError) as caught:
        binding(rule, *variables)
    assert words in caught.value.message


def test_variables_in_one_message_of_a_oneof_fit() -> None:
    made = binding(Rule("GET"), "choice_part.name", "choice_part.inner.name")
    message: Any = made.request([("choice_part.name", "a"), ("choice_part.inner.name", "b")], b"", b"")
    assert (message.choice_part.name, message.choice_part.inner.name) == ("a", "b")


def test_a_body_that_many_clients_cannot_send_is_warned_of() -> None:
    warned = {method for method in ("GET", "DELETE", "POST") if binding(Rule(method, body="*")).warnings}
    assert warned == {"GET", "DELETE"}
    assert not binding(Rule("GET")).warnings


def test_a_required_field_may_come_from_the_path() -> None:
    made = binding(Rule(body="*"), "key", request="legacy.v1.Legacy")
    message: Any = made.request([("key", "a")], b"", b'{"count": 1}', "application/json")
    assert (message.key, message.count) == ("a", 1)
    unbound = binding(Rule(body="*"), request="legacy.v1.Legacy")
    with pytest.raises(RequestRefused, match="required fields are missing: key") as caught:
        unbound.request([], b"", b'{"count": 1}', "application/json")
    assert caught.value.status == 400


def test_a_path_capture_that_is_no_text() -> None:
    with pytest.raises(RequestRefused) as caught:
        binding(Rule("GET"), "name").request([("name", "\udcff")], b"", b"")
    assert (caught.value.status, caught.value.field) == (400, "name")


def test_http_body_is_told_from_a_message_of_its_name() -> None:
    assert binding(Rule(body="*"), request="google.api.HttpBody").raw_request
    assert not binding(Rule("GET"), request="google.api.HttpBody").raw_request
    assert binding(Rule(body="file"), request="Attachment").raw_request
    assert not binding(Rule(body="*"), request="Attachment").raw_request
    assert binding(Rule(), answer="google.api.HttpBody").raw_response
    assert binding(Rule(response_body="file"), answer="Attachment").raw_response
    assert not binding(Rule(), answer="Attachment").raw_response


@pytest.mark.parametrize("content_type", ["text/html\r\nSet-Cookie: a=b", "a\nb", "a\0b", " a", "a ", "ä", "x" * 1000])
def test_a_content_type_that_is_no_header_is_never_answered(content_type: str) -> None:
    body = new("google.api.HttpBody")
    body.content_type = content_type
    with pytest.raises(CannotRender):
        binding(Rule(), answer="google.api.HttpBody").response(body)


def test_an_answer_that_has_no_json_form() -> None:
    message = new("everything.v1.Everything")
    message.time.seconds = 10**15
    with pytest.raises(CannotRender) as caught:
        binding(Rule()).response(message)
    assert caught.value.field == "time"
    with pytest.raises(CannotRender) as caught:
        binding(Rule(response_body="time")).response(message)
    assert caught.value.field == "time"


@pytest.mark.parametrize("content_type", ["application/json", "application/a+json", "APPLICATION/JSON ; charset=utf8"])
def test_json_types(content_type: str) -> None:
    assert is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/json",
        "application/json;x=1",
        "application/+json",
        "application/connect+json",
        "application/grpc-web+json",
        "application/json" + " " * 10_000 + "x",
    ],
)
def test_other_types(content_type: str) -> None:
    assert not is_json(content_type)


def test_one_binding_serves_many_requests() -> None:
    made = binding(Rule(body="*"))
    first = made.request([], b"", b'{"strings": ["a"]}', "application/json")
    second = made.request([], b"", b"", "")
    assert first != second == new("everything.v1.Everything")
