from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from random import Random

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodOptions

from mesh.transcode.json_codec import Codecs
from mesh.transcode.openapi import ApiSource, render
from mesh.transcode.refusals import BadJson
from mesh.transcode.schema import HttpRule, Limits, Schema, SchemaError
from tests.unit.transcode import stubs
from tests.unit.transcode.mutations import mutated_bytes, mutated_set

LIBRARY = "schematest.library.v1.LibraryService"
Change = Callable[[FileDescriptorProto], object]


def schema() -> Schema:
    return Schema.load(stubs.generated()[1])


def small(change: Change = lambda file: None, *others: FileDescriptorProto) -> bytes:
    """Return a descriptor set with one service of one method, changed."""
    file = FileDescriptorProto(name="a.proto", package="a", syntax="proto3")
    message = file.message_type.add(name="M")
    message.field.add(name="text", number=1, type=FieldDescriptorProto.TYPE_STRING, label=1)
    message.field.add(name="inner", number=2, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".a.M", label=1)
    message.field.add(name="many", number=3, type=FieldDescriptorProto.TYPE_STRING, label=3)
    file.service.add(name="S").method.add(name="Do", input_type=".a.M", output_type=".a.M")
    change(file)
    return FileDescriptorSet(file=[*others, file]).SerializeToString()


def options(file: FileDescriptorProto) -> MethodOptions:
    found: MethodOptions = file.service[0].method[0].options
    return found


def refused(data: bytes, **limits: int) -> str:
    with pytest.raises(SchemaError) as caught:
        Schema.load(data, limits=Limits(**limits))
    assert caught.value.message.isprintable() and len(caught.value.message) < 700
    return caught.value.message


def test_services_and_methods() -> None:
    found = schema()
    assert list(found.services) == ["Echo", "Parrot", "schematest.library.v1.AuditService", LIBRARY]
    service = found.services[LIBRARY]
    assert service.file == stubs.LIBRARY
    assert service.comments == "Keeps shelves and books."
    method = service.methods["GetShelf"]
    assert method.full_name == f"{LIBRARY}/GetShelf" and method.name == "GetShelf"
    assert (method.input.full_name, method.output.name) == ("schematest.library.v1.GetShelfRequest", "Shelf")
    assert method.comments == "Returns one shelf.\n\nIt must exist."
    assert method.idempotent and method.no_side_effects and not method.deprecated
    assert service.methods["DeleteShelf"].deprecated and not service.methods["DeleteShelf"].idempotent
    streaming = {m.name: (m.client_streaming, m.server_streaming) for m in service.methods.values()}
    assert streaming["Chat"] == (True, True) and streaming["WatchShelves"] == (False, True)
    assert found.method(f"{LIBRARY}/GetShelf") is method
    assert found.method(f"{LIBRARY}/Nothing") is None and found.method("Nothing") is None


def test_rules_are_flattened() -> None:
    methods = schema().services[LIBRARY].methods
    assert methods["GetShelf"].rules == (
        HttpRule("GET", "/v1/{name=shelves/*}", "", ""),
        HttpRule("GET", "/v1/shelf-by-name/{name}", "", ""),
    )
    assert methods["CreateShelf"].rules == (HttpRule("POST", "/v1/shelves", "shelf", ""),)
    assert methods["ListShelves"].rules == (HttpRule("GET", "/v1/shelves", "", "shelves"),)
    assert methods["Purge"].rules == (HttpRule("PURGE", "/v1/shelves", "", ""),)


def test_a_method_without_a_rule_has_a_route() -> None:
    method = schema().services[LIBRARY].methods["Chat"]
    assert method.rules == ()
    assert method.routes == (HttpRule("POST", f"/{LIBRARY}/Chat", "*", ""),)


def test_only_the_named_services_are_served() -> None:
    assert list(Schema.load(stubs.generated()[1], [LIBRARY]).services) == [LIBRARY]
    with pytest.raises(SchemaError, match="does not describe the service 'Gone'"):
        Schema.load(stubs.generated()[1], [LIBRARY, "Gone"])


def test_messages_belong_to_a_pool_of_the_schema() -> None:
    first, second = schema(), schema()
    inputs = [each.services[LIBRARY].methods["GetShelf"].input for each in (first, second)]
    classes = [first.message_class(inputs[0]), second.message_class(inputs[1])]
    assert classes[0] is not classes[1] and classes[0] is first.message_class(inputs[0])
    message = classes[0]()
    message.ParseFromString(b"\x0a\x01x")
    assert getattr(message, "name") == "x"  # noqa: B009  (made at run time)


def test_a_pool_goes_with_its_schema() -> None:
    found = schema()
    gone = weakref.ref(found.message_class(found.services[LIBRARY].methods["GetShelf"].input))
    del found
    gc.collect()
    assert gone() is None


def test_files_that_come_with_protobuf_and_googleapis_may_be_left_out() -> None:
    only = [file for file in stubs.described().file if not file.name.startswith("google/")]
    found = Schema.load(FileDescriptorSet(file=only).SerializeToString())
    assert found.services[LIBRARY].methods["GetShelf"].rules == schema().services[LIBRARY].methods["GetShelf"].rules
    assert found.pool.FindMessageTypeByName("google.type.Date").fields_by_name["year"].number == 1


def test_the_order_of_the_files_does_not_count() -> None:
    files = list(stubs.described().file)[::-1]
    assert list(Schema.load(FileDescriptorSet(file=files).SerializeToString()).services) == list(schema().services)


def test_the_same_file_twice_is_one() -> None:
    files = [*stubs.described().file, *stubs.described().file]
    assert Schema.load(FileDescriptorSet(file=files).SerializeToString()).services


def test_own_files_of_a_set_are_not_used() -> None:
    strange = FileDescriptorProto(name="google/protobuf/timestamp.proto", package="google.protobuf")
    strange.message_type.add(name="Timestamp")
    strange.service.add(name="Hidden")
    data = small(lambda file: file.dependency.append(strange.name), strange)
    found = Schema.load(data)
    assert list(found.services) == ["a.S"]
    assert found.pool.FindMessageTypeByName("google.protobuf.Timestamp").fields_by_name["nanos"].number == 2


def test_comments_by_full_name() -> None:
    told = schema().comments
    assert told["schematest.library.v1.Shelf.width"] == "In metres."
    assert not any(name.startswith("google.protobuf.") for name in told)


def add_field(file: FileDescriptorProto, **field: object) -> None:
    file.message_type[0].field.add(**{"number": 9, "type": FieldDescriptorProto.TYPE_STRING, "label": 1} | field)


def add_map_entry(file: FileDescriptorProto, key_type: int = FieldDescriptorProto.TYPE_STRING) -> None:
    entry = file.message_type[0].nested_type.add(name="E")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=key_type, label=1)
    add_field(file, name="map", type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".a.M.E", label=3)


def rename(file: FileDescriptorProto, package: str, name: str) -> None:
    file.package = package
    file.message_type[0].name = name
    for field in (file.service[0].method[0],):
        field.input_type = field.output_type = f".{package}.{name}"
    file.message_type[0].field[1].type_name = f".{package}.{name}"


def imports(file: FileDescriptorProto, *names: str) -> None:
    file.dependency.extend(names)


def cyclic() -> bytes:
    return small(lambda f: imports(f, "b.proto"), FileDescriptorProto(name="b.proto", dependency=["a.proto"]))


def colliding() -> bytes:
    other = FileDescriptorProto(name="b.proto", package="a", syntax="proto3")
    other.message_type.add(name="M")
    return small(lambda f: None, other)


def differing() -> bytes:
    return small(lambda f: None, FileDescriptorProto(name="a.proto", package="other"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the descriptor set is empty"),
        (b"\xff\xff\xff", "is no google.protobuf.FileDescriptorSet"),
        (b"{}", "is no google.protobuf.FileDescriptorSet"),
        (b"\x0a\x03\x0a\x01\xff", "a name in it is not UTF-8"),
        (FileDescriptorSet(file=[FileDescriptorProto(name="a.proto")]).SerializeToString(), "has no service"),
        (small(lambda f: imports(f, "gone.proto")), "'a.proto' imports 'gone.proto', which the descriptor set lacks"),
        (small(lambda f: imports(f, "a.proto")), "import each other in a circle: 'a.proto' -> 'a.proto'"),
        (cyclic(), "import each other in a circle"),
        (colliding(), "duplicate symbol 'a.M'"),
        (differing(), "two files 'a.proto' that differ"),
        (small(lambda f: f.ClearField("message_type")), "'a.proto' is refused by protobuf: couldn't resolve name"),
        (small(lambda f: f.ClearField("name")), "a file's name is empty"),
        (small(lambda f: f.message_type.add()), "a name in 'a.proto' is empty"),
        (small(lambda f: add_field(f, name="x" * 1001)), "has 1001 characters; 1000 are allowed"),
        (small(lambda f: add_field(f, name="y", number=1)), "is refused by protobuf"),
        (small(add_map_entry), "'a.M.E' says it is the entry of a map, and is none"),
        (small(lambda f: add_field(f, name="te_xt", json_name="text")), "have one name in JSON"),
        (small(lambda f: rename(f, "google.protobuf", "Timestamp")), "which only google/protobuf/timestamp.proto may"),
        (small(lambda f: rename(f, "google.api", "HttpBody")), "which only google/api/httpbody.proto may declare"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, reason: str) -> None:
    assert reason in refused(data)


def http(template: str = "/x", *, body: str = "", **others: object) -> Change:
    def change(file: FileDescriptorProto) -> None:
        rule = options(file).Extensions[annotations_pb2.http]
        rule.post, rule.body = template, body
        for name, value in others.items():
            setattr(rule, name, value)

    return change


def nested_bindings(file: FileDescriptorProto) -> None:
    rule = options(file).Extensions[annotations_pb2.http]
    rule.get = "/x"
    rule.additional_bindings.add(get="/y").additional_bindings.add(get="/z")


def twice(file: FileDescriptorProto) -> None:
    rule = options(file).Extensions[annotations_pb2.http]
    rule.get = "/{text}"
    rule.additional_bindings.add(get="/{inner.text}")


def pattern_missing(file: FileDescriptorProto) -> None:
    options(file).Extensions[annotations_pb2.http].body = "*"


def custom(kind: str) -> Change:
    def change(file: FileDescriptorProto) -> None:
        rule = options(file).Extensions[annotations_pb2.http]
        rule.custom.kind, rule.custom.path = kind, "/x"

    return change


def taken_by_the_default_route(file: FileDescriptorProto) -> None:
    other = file.service[0].method.add(name="Other", input_type=".a.M", output_type=".a.M")
    other.options.Extensions[annotations_pb2.http].post = "/a.S/Do"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (http("x"), "the HTTP rule of 'a.S/Do': the path 'x': column 1"),
        (http("/{text=**}/x"), "'**' must be the last segment"),
        (http("/{gone}"), "'gone'"),
        (http("/{inner}"), "names a message"),
        (http("/{many}"), "repeated"),
        (http("/{inner.many}"), "repeated"),
        (http("/{text.x}"), "no such field"),
        (http(body="gone"), "body names 'gone'"),
        (http(body="inner.text"), "body names 'inner.text'"),
        (http("/{text}", body="text"), "in the template and is the body too"),
        (http(response_body="gone"), "response_body names 'gone'"),
        (nested_bindings, "additional binding 1 of 'a.S/Do' has additional bindings of its own"),
        (pattern_missing, "has no HTTP method and path"),
        (custom(""), "has the HTTP method ''"),
        (custom("ge t"), "has the HTTP method 'ge t'"),
        (custom("CONNECT"), "which no gateway serves"),
        (twice, "'a.S/Do' twice has the same route: GET '/{inner.text}'"),
        (taken_by_the_default_route, "'a.S/Do' and 'a.S/Other' have the same route: POST '/a.S/Do'"),
    ],
)
def test_http_rules_that_cannot_be_served_are_refused(change: Change, reason: str) -> None:
    assert reason in refused(small(change))


def test_custom_methods() -> None:
    for kind in ("HEAD", "*", "PURGE"):
        assert Schema.load(small(custom(kind))).services["a.S"].methods["Do"].rules[0].http_method == kind


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"bytes_max": 10}, "bytes; 10 are allowed"),
        ({"files_max": 1}, "files; 1 are allowed"),
        ({"symbols_max": 10}, "more than the 10 names allowed"),
        ({"nesting_max": 1}, "messages deep; 1 are allowed"),
        ({"rules_max": 3}, "HTTP rules; 3 are allowed"),
        ({"path_characters_max": 50}, "characters in all; 50 are allowed"),
        ({"name_characters_max": 5}, "5 are allowed"),
    ],
)
def test_limits(limits: dict[str, int], reason: str) -> None:
    assert reason in refused(stubs.generated()[1], **limits)


def test_a_message_nested_very_deep_is_refused() -> None:
    def nest(file: FileDescriptorProto) -> None:
        at = file.message_type[0]
        for _ in range(80):
            at = at.nested_type.add(name="N")

    assert "messages deep" in refused(small(nest))


def test_a_rule_deeper_than_protobuf_reads_is_refused() -> None:
    data = b""
    for number in (*[http_pb2.HttpRule.ADDITIONAL_BINDINGS_FIELD_NUMBER] * 97, annotations_pb2.HTTP_FIELD_NUMBER):
        data = _field(number, data)
    for number in (4, 2, 6, 1):  # the options of a method of a service of a file
        data = _field(number, data)
    assert "is no google.protobuf.FileDescriptorSet" in refused(data)


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field as it is on the wire."""
    found = b""
    for value in (number << 3 | 2, len(data)):
        while value > 0x7F:
            found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
        found += bytes([value])
    return found + data


def use(found: Schema) -> None:
    """Do with a schema whatever mesh does with one."""
    codecs = Codecs(found.pool)
    for service in found.services.values():
        for method in service.methods.values():
            for descriptor in (method.input, method.output):
                found.message_class(descriptor)().SerializePartialToString()
                codec = codecs.get(descriptor)
                with contextlib.suppress(BadJson):  # required fields
                    codec.render(codec.parse(b"{}"))
    render([ApiSource("app", "/app", found)])


def test_mutated_descriptor_sets_are_served_or_refused_and_never_crash() -> None:
    own = [file for file in stubs.described().file if not file.name.startswith("google/")]
    for file in own:
        file.ClearField("source_code_info")
    seed = FileDescriptorSet(file=own)
    data = seed.SerializeToString()
    served = 0
    reasons = set[str]()
    for i in range(5000):
        random = Random(i)
        mutated = mutated_bytes(data, random) if i % 2 else mutated_set(seed, random)
        try:
            found = Schema.load(mutated)
        except SchemaError as error:
            reasons.add(error.message)
            continue
        served += 1
        if served % 10 == 0:
            use(found)
    assert 100 < served < 4900
    assert all(reason.isprintable() and len(reason) < 700 for reason in reasons)
