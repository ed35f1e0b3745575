"""The codec against google.protobuf.json_format: random messages both ways, and mutated JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.transcode.json_codec import Codec, Codecs, JsonOptions
from mesh.transcode.refusals import BadJson
from tests.support import everything
from tests.support.random_messages import JSON_VALUES, messages

_EVERYTHING = everything.descriptor("everything.v1.Everything")
_LEGACY = everything.descriptor("legacy.v1.Legacy")
_POOL = everything.pool()
_CODECS = Codecs(_POOL)
_MESSAGES = st.one_of(messages(_EVERYTHING), messages(_LEGACY))
_OPTIONS = [
    JsonOptions(emit_defaults, proto_names, numbers)
    for emit_defaults in (False, True)
    for proto_names in (False, True)
    for numbers in (False, True)
]
_BY_OPTIONS = {options: Codecs(_POOL, options) for options in _OPTIONS}

bounded = settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


def codec_of(message: Message, codecs: Codecs = _CODECS) -> Codec:
    return codecs.get(everything.descriptor(message.DESCRIPTOR.full_name))


def wire(message: Message) -> bytes:
    """What two messages are compared by: NaN is not equal to itself, its bytes are."""
    return message.SerializePartialToString(deterministic=True)


def oracle_parse(text: str | bytes, message: Message) -> Message:
    return json_format.Parse(text, type(message)(), descriptor_pool=_POOL)


@bounded
@given(_MESSAGES)
def test_what_is_rendered_reads_back(message: Message) -> None:
    codec = codec_of(message)
    assert wire(codec.parse(codec.render(message))) == wire(message)
    assert wire(codec.parse_value(codec.render_value(message))) == wire(message)


@bounded
@given(_MESSAGES)
def test_json_format_reads_what_is_rendered(message: Message) -> None:
    assert wire(oracle_parse(codec_of(message).render(message), message)) == wire(message)


@bounded
@given(_MESSAGES)
def test_what_json_format_writes_is_read(message: Message) -> None:
    text = json_format.MessageToJson(message, descriptor_pool=_POOL)
    assert wire(codec_of(message).parse(text.encode())) == wire(message)


@bounded
@given(_MESSAGES, st.sampled_from(_OPTIONS))
def test_rendered_equals_json_format_with_every_option(message: Message, options: JsonOptions) -> None:
    expected = json_format.MessageToJson(
        message,
        preserving_proto_field_name=options.proto_names,
        use_integers_for_enums=options.enums_as_numbers,
        always_print_fields_with_no_presence=options.emit_defaults,
        descriptor_pool=_POOL,
    )
    rendered = codec_of(message, _BY_OPTIONS[options]).render(message)
    assert b"\n" not in rendered
    assert json.loads(rendered) == json.loads(expected)


@settings(bounded, max_examples=400)
@given(st.data())
def test_what_mutated_json_is_accepted_means_what_json_format_says(data: st.DataObject) -> None:
    message = data.draw(_MESSAGES)
    value = copy.deepcopy(codec_of(message).render_value(message))
    mutated = _mutated(data, value)
    try:
        read = codec_of(message).parse_value(mutated)
    except BadJson:
        return
    if _has_null_in_array(mutated):
        return
    text = json.dumps(mutated)
    try:
        expected = oracle_parse(text, message)
    except json_format.ParseError as error:
        if "AttributeError" in str(error):  # json_format breaks at a null in the place of a list of Value or NullValue
            return
        raise
    assert wire(expected) == wire(read), text


@settings(bounded, max_examples=300)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\u0d8etrfalsn1-+.eE ', max_size=30).map(str.encode))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    for name in ("everything.v1.Everything", "google.protobuf.Value", "google.protobuf.Struct"):
        codec = _CODECS.get(everything.descriptor(name))
        try:
            message = codec.parse(body)
        except BadJson:
            continue
        assert wire(oracle_parse(body, message)) == wire(message)


def _mutated(data: st.DataObject, value: Any) -> Any:
    """Replace, remove or rename one member somewhere inside."""
    if not isinstance(value, (dict, list)) or not value or data.draw(st.integers(0, 3)) == 0:
        return data.draw(JSON_VALUES | st.sampled_from(["NaN", "1", "1_0", "-0", "1e2", "=", "AA", 1e300, -1, 2**64]))
    if isinstance(value, list):
        index = data.draw(st.integers(0, len(value) - 1))
        value[index] = _mutated(data, value[index])
        return value
    key = data.draw(st.sampled_from(sorted(value)))
    action = data.draw(st.sampled_from(["inside", "inside", "remove", "rename", "add"]))
    if action == "inside":
        value[key] = _mutated(data, value[key])
    elif action == "add":
        names = [field.json_name for field in _EVERYTHING.fields]
        value[data.draw(st.sampled_from(names))] = data.draw(JSON_VALUES)
    else:
        held = value.pop(key)
        if action == "rename":
            value[data.draw(st.sampled_from([key.lower(), key + "_", "[" + key + "]", "01"]))] = held
    return value


def _has_null_in_array(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null_in_array, value.values()))
    return isinstance(value, list) and (None in value or any(map(_has_null_in_array, value)))


@pytest.mark.parametrize("options", _OPTIONS, ids=str)
def test_an_empty_message_with_every_option(options: JsonOptions) -> None:
    message = everything.message_class("everything.v1.Everything")()
    assert codec_of(message, _BY_OPTIONS[options]).parse_value({}) == message
    rendered = json.loads(codec_of(message, _BY_OPTIONS[options]).render(message))
    assert bool(rendered) is options.emit_defaults
