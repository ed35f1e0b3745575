from __future__ import annotations

import contextlib
import datetime
import decimal
import random
import sys
import uuid
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import ExtType, packb

from mesh.errors import DecodingFailed, EncodingFailed
from mesh.serving import encoding
from mesh.serving.encoding import decode, encode
from mesh.v1 import discovery_service_pb2 as pb
from tests.unit.serving.encoding_types import (
    Colour,
    Frozen,
    Level,
    Model,
    NoData,
    Open,
    Ordered,
    Pair,
    Point,
    Rights,
)

UTC = datetime.UTC


def message(value: Any) -> bytes:
    return b"".join(encode(value))


def there_and_back(value: Any) -> Any:
    return decode(bytearray(message(value)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**70,
        -(2**64),
        1.5,
        "text",
        b"bytes",
        (1, (2, [3])),
        {1, 2},
        frozenset({(1, 2)}),
        {(1, 2): {"a": {3}}},
        1 + 2j,
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime.datetime(2026, 10, 25, 2, 30, fold=1),
        datetime.date(2026, 1, 2),
        datetime.time(1, 2, 3),
        datetime.timedelta(-1, 2, 3),
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        Point(1, tags=["a"]),
        Frozen(Point(1), (Colour.RED, Level.LOW, Rights.READ | Rights.WRITE)),
        Pair(1, "b"),
        Model(Name="a", inner=[Model(Name="b")]),
        Open.model_validate({"a": 1, "b": [2]}),
        pb.Endpoint(replica_id="a", address="b"),
    ],
    ids=repr,
)
def test_values_arrive_as_they_were_sent(value: Any) -> None:
    came = there_and_back(value)
    assert came == value
    assert type(came) is type(value)


def test_what_only_the_clock_of_a_zone_tells_apart_arrives() -> None:
    moment = datetime.datetime(2026, 10, 25, 2, 30, fold=1)
    assert there_and_back(moment).fold == 1


def test_a_model_keeps_which_fields_were_given_and_has_its_private_ones_anew() -> None:
    model = Model(Name="a")
    model._cache["x"] = 1
    came = there_and_back(model)
    assert came.model_fields_set == {"name"} and came._cache == {}


ARRAY = numpy.arange(60_000, dtype="f4").reshape(200, 300)


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        ARRAY.T,
        ARRAY[::2, ::3],
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.array(["a", "bc"]),
        numpy.array(["2026-01-01"] * 2000, dtype="M8[s]"),
        numpy.array([True] * 5000),
        numpy.arange(2000, dtype=">i8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("holder", [bytes, bytearray])
def test_arrays_arrive_with_dtype_and_shape_and_can_be_written_to(array: Any, holder: Any) -> None:
    came = decode(holder(message({"of": [array]})))["of"][0]
    assert came.dtype == array.dtype and came.shape == array.shape and (came == array).all()
    assert came.flags.writeable


def test_arrays_are_views_of_the_message() -> None:
    came = bytearray(message(ARRAY))
    array = decode(came)
    came[-4:] = b"\0\0\0\0"
    assert array[-1, -1] == 0


def test_what_cannot_travel_is_searched_for_within_bounds() -> None:
    with pytest.raises(EncodingFailed, match=r"value\[1\]\['x'\]: a builtins.object cannot travel"):
        encode([[0] * 1000, {"x": object()}])
    with pytest.raises(EncodingFailed, match=r"value: a builtins\.object cannot travel"):
        encode([[0] * 100_000, {"x": object()}])


def test_scalars_of_numpy_keep_their_type() -> None:
    sent = (numpy.float32(1.5), numpy.int8(3), numpy.float64(2), numpy.array(["", "a"])[0], numpy.bytes_(b""))
    came = there_and_back(sent)
    assert [type(each) for each in came] == [type(each) for each in sent] and came == sent


class Local:
    pass


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    return value


def itself() -> Any:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, {"b": NoData()}]}, "value['a'][1]['b']: a tests.unit.serving.encoding_types.NoData cannot travel"),
        (Point(1, tags=[lambda: 1]), "value.tags[0]: a function cannot travel between deployments: it is code"),  # type: ignore[list-item]
        ((Model.model_construct(name=NoData()),), "value[0].name: a tests.unit.serving.encoding_types.NoData"),
        ({"a": Ordered(b=1)}, "value['a']: a Ordered is a dict with a type of its own"),
        ([numpy.array([object()])], "value[0]: arrays of dtype object cannot travel"),
        ([numpy.ma.array([1])], "value[0]: arrays of type MaskedArray cannot travel"),
        ({NoData(): 1}, "value (a key): "),
        (itself(), "value[1]['again']: it contains itself"),
        (deep(150), "nested more than 100 deep"),
        (2**600_000, "a number of 75001 bytes cannot travel"),
        ("\ud800", "value: "),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_cannot_travel_is_told_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(EncodingFailed) as raised:
        encode(value)
    assert said in str(raised.value)
    assert isinstance(raised.value, TypeError)


def test_a_class_within_a_function_cannot_be_found_by_the_other_side() -> None:
    import dataclasses

    @dataclasses.dataclass
    class Inner:
        x: int

    with pytest.raises(EncodingFailed, match="define it at the top of a module"):
        encode(Inner(1))


def test_a_value_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MESSAGE_BYTES_MAX", 1000)
    with pytest.raises(EncodingFailed, match="1000 are allowed"):
        encode(bytes(1001))


# What somebody may send.

OBJECT, ENUM, MESSAGE = 13, 12, 14


def sent(code: int, content: Any) -> bytes:
    packed: bytes = packb(ExtType(code, packb(content)))
    return b"\0" + packed


HERE = "tests.unit.serving.encoding_types"


@pytest.mark.parametrize(
    ("came", "said"),
    [
        (sent(OBJECT, ["os", "system", {}]), "class os.system is not loaded here"),
        (sent(OBJECT, ["this", "s", {}]), "class this.s is not loaded here"),
        (sent(OBJECT, ["subprocess", "Popen", {"args": "id"}]), "is no dataclass and no pydantic model"),
        (sent(OBJECT, [HERE, "NoData", {}]), "is no dataclass and no pydantic model"),
        (sent(OBJECT, [HERE, "dataclasses.Field", {}]), "is not loaded here"),
        (sent(OBJECT, [HERE, "Point", {"x": 1, "evil": 2}]), "other fields here: evil"),
        (sent(OBJECT, [HERE, "Point", {"y": 1}]), "other fields here: x"),
        (sent(OBJECT, [HERE, "Point", [1]]), "an object came without fields"),
        (sent(OBJECT, [1, 2, {}]), "cannot be read"),
        (sent(ENUM, [HERE, "Colour", "GREEN"]), "has no member 'GREEN' here"),
        (sent(ENUM, [HERE, "Point", "x"]), "is no enum here"),
        (sent(MESSAGE, ["no.such.Message", b""]), "is not loaded here"),
        (sent(99, []), "kind 99"),
        (b"\0", "cannot be read"),
        (b"\7", "of no form"),
        (b"", "of no form"),
        (b"\1\0\0\0\1\0\0\0\1", "shorter than it says"),
        (b"\1\0\0\0\1\xff\xff\xff\xff", "shorter than it says"),
        (b"\0" + b"\x91" * 10_000 + b"\x90", "cannot be read"),
        (b"\0\xdd\xff\xff\xff\xff", "cannot be read"),
        (sent(15, ["|O", [1], "C", b"12345678"]), "nobody sends here"),
        (sent(15, ["<f4", [10**18], "C", b"1234"]), "cannot be read"),
        (sent(15, ["<f4", [1], "C", 7]), "cannot be read"),
    ],
)
def test_what_is_no_value_is_refused(came: bytes, said: str) -> None:
    with pytest.raises(DecodingFailed, match=said):
        decode(came)


def test_nothing_is_imported_on_the_word_of_a_message() -> None:
    assert "antigravity" not in sys.modules and "this" not in sys.modules
    for module in ("antigravity", "this"):
        with pytest.raises(DecodingFailed):
            decode(sent(OBJECT, [module, "s", {}]))
        with pytest.raises(DecodingFailed):
            decode(sent(ENUM, [module, "s", "x"]))
    assert "antigravity" not in sys.modules and "this" not in sys.modules


def test_fields_that_an_older_sender_does_not_know_get_their_defaults() -> None:
    assert decode(sent(OBJECT, [HERE, "Point", {"x": 1}])) == Point(1)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.tuples(st.integers()), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Frozen, st.builds(Point, st.integers()), st.tuples(inner))
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_value_arrives(value: Any) -> None:
    assert there_and_back(value) == value


def test_mutated_messages_never_raise_anything_else() -> None:
    rng = random.Random(7)
    values = (ARRAY[:40], Frozen(Point(1)), Model(Name="a"), {"a": (1, {2})}, pb.Endpoint(address="x"))
    seeds = [message(value) for value in values]
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data) if rng.random() < 0.3 else min(80, len(data)))
            data[at] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        with contextlib.suppress(DecodingFailed):
            decode(data)
