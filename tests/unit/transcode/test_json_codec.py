"""The codec where json_format is no oracle: names, proto2, extensions, types that are not what they are called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    Edition,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mesh.transcode.json_codec import Codec, Codecs, JsonOptions
from mesh.transcode.json_text import decode
from mesh.transcode.refusals import BadJson, CannotRender, Flaw
from tests.support import everything

CODECS = Codecs(everything.pool())


def codec(name: str) -> Codec:
    return CODECS.get(everything.descriptor(name))


def new(name: str = "everything.v1.Everything") -> Any:
    return everything.message_class(name)()


def refused(name: str, body: str) -> BadJson:
    with pytest.raises(BadJson) as caught:
        codec(name).parse(body.encode())
    return caught.value


def unrendered(message: Message) -> CannotRender:
    with pytest.raises(CannotRender) as caught:
        codec(message.DESCRIPTOR.full_name).render(message)
    return caught.value


def test_a_codec_of_its_own_equals_a_shared_one() -> None:
    descriptor = everything.descriptor("everything.v1.Everything")
    alone = Codec(descriptor, GetMessageClass(descriptor), JsonOptions(proto_names=True))
    message = alone.parse(b'{"int32Value":5,"part":{"name":"a"}}')
    assert alone.render(message) == b'{"int32_value":5,"part":{"name":"a"}}'


def test_rendered_text_is_compact_and_in_field_order() -> None:
    message = new()
    message.part.weight = 2
    message.int64_value = 1
    message.labels["ä"] = '"\n\x00\x7f\u2028'
    expected = '{"int64Value":"1","labels":{"ä":"\\"\\n\\u0000\x7f\u2028"},"part":{"weight":2}}'
    assert codec("everything.v1.Everything").render(message) == expected.encode()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.5, "0.5"), (5.0, "5"), (-0.0, "-0.0"), (1e16, "1e+16"), (1e-7, "1e-07"), (2.0**53, "9007199254740992")],
)
def test_doubles_are_written_short(number: float, text: str) -> None:
    message = new()
    message.optional_double = number
    assert codec("everything.v1.Everything").render(message).decode() == f'{{"optionalDouble":{text}}}'


@pytest.mark.parametrize("number", [0.1, 3.4028234663852886e38, 1e-45, 16777216.0, 1.17549435e-38, 0.3333333432674408])
def test_floats_are_written_so_that_they_read_back(number: float) -> None:
    message = new()
    message.float_value = number
    text = codec("everything.v1.Everything").render(message)
    assert codec("everything.v1.Everything").parse(text) == message
    assert len(text) <= len('{"floatValue":}') + 14


def test_names_that_protobuf_uses_itself() -> None:
    body = b'{"WhichOneof":1,"ListFields":2,"SerializeToString":3,"SetInParent":4,"IsInitialized":5,"DESCRIPTOR":6,'
    body += b'"HasField":{"ListFields":7},"one":"x"}'
    awkward = codec("everything.v1.Awkward")
    assert awkward.render(awkward.parse(body)) == body
    assert refused("everything.v1.Awkward", '{"one":"x","other":"y"}').field == "other"


# --- proto2


def test_required_fields_must_be_there() -> None:
    assert refused("legacy.v1.Legacy", "{}").reason == "required fields are missing: key"
    assert "row[0].cell" in refused("legacy.v1.Legacy", '{"key":"a","row":[{}]}').reason
    assert "next.key" in refused("legacy.v1.Legacy", '{"key":"a","next":{}}').reason
    assert codec("legacy.v1.Legacy").parse(b'{"key":""}').HasField("key")


def test_only_some_of_many_missing_fields_are_named() -> None:
    rows = ",".join(["{}"] * 10_000)
    refusal = refused("legacy.v1.Legacy", f'{{"key":"a","row":[{rows}]}}')
    assert refusal.reason.endswith("row[4].cell, ...")


def test_required_fields_of_an_any_must_be_there() -> None:
    body = '{"any":{"@type":"x/legacy.v1.Legacy","next":{"key":"a"}}}'
    assert refused("everything.v1.Everything", body).field == "any"


def test_closed_enums_take_known_numbers_only() -> None:
    legacy = codec("legacy.v1.Legacy")
    assert legacy.parse_value({"key": "a", "level": 5, "levels": ["LEVEL_LOW", 1]}).level == 5  # type: ignore[attr-defined]
    assert refused("legacy.v1.Legacy", '{"key":"a","level":2}').field == "level"
    assert refused("legacy.v1.Legacy", '{"key":"a","levels":[1,2]}').field == "levels[1]"


def test_groups_are_messages() -> None:
    body = b'{"key":"a","detail":{"text":"x"},"row":[{"cell":1},{"cell":2}]}'
    legacy = codec("legacy.v1.Legacy")
    assert legacy.render(legacy.parse(body)) == body


def test_defaults_of_proto2_are_not_written() -> None:
    emitting = Codecs(everything.pool(), JsonOptions(emit_defaults=True)).get(everything.descriptor("legacy.v1.Legacy"))
    assert json.loads(emitting.render(emitting.parse(b'{"key":"a"}'))) == {"key": "a", "levels": [], "row": []}


def test_extensions() -> None:
    legacy = codec("legacy.v1.Legacy")
    body = b'{"key":"a","[legacy.v1.rating]":"5","[legacy.v1.twin]":{"key":"b"},"[legacy.v1.notes]":["x","y"]}'
    for _ in range(2):
        assert legacy.render(legacy.parse(body)) == body
    assert legacy.parse(b'{"key":"a","[legacy.v1.rating]":null}') == legacy.parse(b'{"key":"a"}')


@pytest.mark.parametrize(
    "key", ["[legacy.v1.no]", "[legacy.v1.Legacy]", "[]", "[", "rating", "[legacy.v1.rating", "[\\ud800]", "[ä]"]
)
def test_unknown_extensions(key: str) -> None:
    assert refused("legacy.v1.Legacy", f'{{"key":"a","{key}":1}}').reason == "no such field"
    assert refused("everything.v1.Part", f'{{"{key}":1}}').reason == "no such field"


def test_text_of_proto2_that_is_none() -> None:
    assert unrendered(type(new("legacy.v1.Legacy")).FromString(b"\x0a\x01a\x42\x02\xff\xfe")).field == "raw"


# --- what has no JSON form


def test_well_known_types_out_of_range() -> None:
    message = new()
    message.times.add().seconds = 10**15
    assert unrendered(message).field == "times[0]"
    message = new()
    message.duration.seconds, message.duration.nanos = 1, -1
    assert unrendered(message).field == "duration"
    message = new()
    message.child.mask.paths.append("camelCase")
    assert unrendered(message).field == "child.mask"
    message = new()
    message.struct.fields["a"].list_value.values.add().number_value = float("nan")
    assert unrendered(message).field.startswith("struct")


@pytest.mark.parametrize("path", ["a__b", "a_1", "a_", "", "a,b", "a b", "ä"])
def test_field_masks_that_would_not_read_back(path: str) -> None:
    message = new()
    message.mask.paths.append(path)
    assert unrendered(message).field == "mask"


def test_any_that_cannot_be_read() -> None:
    message = new()
    message.any.type_url = "type.googleapis.com/no.Such"
    assert unrendered(message).field == "any"
    message.any.type_url = "type.googleapis.com/everything.v1.Part"
    message.any.value = b"\xff"
    assert unrendered(message).field == "any"
    message.any.type_url = ""
    assert unrendered(message).field == "any"


@pytest.mark.parametrize(
    "url",
    [
        *("everything.v1.Part", "/everything.v1.Part", "a/", "é/everything.v1.Part", "a\n/everything.v1.Part"),
        "type.googleapis.com/everything.v1.Everything.LabelsEntry",
    ],
)
def test_any_of_a_type_that_could_not_be_read_back_is_not_written(url: str) -> None:
    message: Any = everything.message_class("everything.v1.Everything")()
    message.any.type_url = url
    assert unrendered(message).field.startswith("any")
    body = json.dumps({"any": {"@type": url}})
    assert refused("everything.v1.Everything", body).field == "any.@type"


def test_any_in_any_ends() -> None:
    inner = new("google.protobuf.Any")
    for _ in range(200):
        outer = new("google.protobuf.Any")
        outer.Pack(inner)
        inner = outer
    message = new()
    message.any.CopyFrom(inner)
    assert unrendered(message).reason == "nested too deep"


def test_what_the_wire_can_nest_can_be_rendered_and_read() -> None:
    message = new()
    deepest = message
    for _ in range(100):
        deepest = deepest.child
    deepest.int32_value = 1
    text = codec("everything.v1.Everything").render(message)
    assert codec("everything.v1.Everything").parse(text) == message
    assert type(message).FromString(message.SerializeToString()) == message
    assert refused("everything.v1.Everything", '{"child":' + text.decode() + "}").reason == "nested too deep"


def test_a_type_that_only_has_the_name_of_a_well_known_one() -> None:
    file = FileDescriptorProto(name="fake.proto", package="google.protobuf", syntax="proto3")
    for name in ("Timestamp", "Any", "StringValue", "Struct", "Value", "FieldMask"):
        field = FieldDescriptorProto(name="when", number=1, type=FieldDescriptorProto.TYPE_STRING)
        file.message_type.append(DescriptorProto(name=name, field=[field]))
    pool = DescriptorPool()
    pool.Add(file)
    for message in file.message_type:
        fake = Codecs(pool).get(pool.FindMessageTypeByName(f"google.protobuf.{message.name}"))
        assert fake.render(fake.parse(b'{"when":"x"}')) == b'{"when":"x"}'


# --- text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON: expecting value at character 0"),
        (b"{} x", "not JSON: more text after the value, at character 2"),
        (b"\xff", "not UTF-8"),
        (b"NaN", "not JSON: NaN must be a string"),
        (b'{"a":1,"a":2}', 'the key "a" is there twice'),
        (b'{"\\ud800\\n":1,"\\ud800\\n":2}', r'the key "\ud800\n" is there twice'),
        (b"1" * 5000, "an integer with too many digits"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_reasons_of_bad_text(body: bytes, reason: str) -> None:
    with pytest.raises(Flaw) as caught:
        decode(body)
    assert caught.value.reason == reason


def test_long_input_is_quoted_short() -> None:
    refusal = refused("everything.v1.Everything", json.dumps({"x" * 100_000: 1}))
    assert len(str(refusal)) < 100
    refusal = refused("everything.v1.Everything", json.dumps({"int32Value": "9" * 100_000}))
    assert len(str(refusal)) < 200


def test_editions() -> None:
    file = FileDescriptorProto(name="edition.proto", package="edition", syntax="editions", edition=Edition.EDITION_2023)
    enum = file.enum_type.add(name="Closed")
    enum.value.add(name="ONE", number=1)
    enum.options.features.enum_type = FeatureSet.CLOSED
    part = FieldDescriptorProto(name="size", number=1, type=FieldDescriptorProto.TYPE_INT32)
    file.message_type.append(DescriptorProto(name="Part", field=[part]))
    message = file.message_type.add(name="Message")
    message.field.add(name="explicit", number=1, type=FieldDescriptorProto.TYPE_INT32)
    implicit = message.field.add(name="implicit", number=2, type=FieldDescriptorProto.TYPE_INT32)
    implicit.options.features.field_presence = FeatureSet.IMPLICIT
    message.field.add(name="closed", number=3, type=FieldDescriptorProto.TYPE_ENUM, type_name=".edition.Closed")
    kind = FieldDescriptorProto.TYPE_MESSAGE
    delimited = message.field.add(name="delimited_part", number=4, type=kind, type_name=".edition.Part")
    delimited.options.features.message_encoding = FeatureSet.DELIMITED
    required = message.field.add(name="needed", number=5, type=FieldDescriptorProto.TYPE_STRING)
    required.options.features.field_presence = FeatureSet.LEGACY_REQUIRED
    pool = DescriptorPool()
    pool.Add(file)
    made = Codecs(pool).get(pool.FindMessageTypeByName("edition.Message"))
    body = b'{"explicit":0,"closed":"ONE","delimitedPart":{"size":0},"needed":""}'
    assert made.render(made.parse(body[:-1] + b',"implicit":0}')) == body
    for wrong in (b"{}", b'{"needed":"","closed":2}', b'{"needed":"","delimitedPart":[]}'):
        with pytest.raises(BadJson):
            made.parse(wrong)
