from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from mesh.transcode.binding import Binding
from mesh.transcode.json_codec import Codecs, JsonOptions
from mesh.transcode.openapi import ApiSource, document, render
from mesh.transcode.openapi_operations import QUERY_PARAMETERS_MAX
from mesh.transcode.openapi_paths import api_path
from mesh.transcode.refusals import RequestRefused
from mesh.transcode.schema import Schema
from tests.unit.transcode import stubs
from tests.unit.transcode.test_schema import http, options, small

LIBRARY = "schematest.library.v1.LibraryService"
SHELF = {"$ref": "#/components/schemas/schematest.library.v1.Shelf"}


@cache
def schema() -> Schema:
    return Schema.load(stubs.generated()[1])


@cache
def library() -> dict[str, Any]:
    found = document([ApiSource("library", "/api", schema())], title="Library")
    check(found)
    return found


def check(found: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(json.loads(json.dumps(found))).validate()
    for body in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(body)
    known = set(found["components"]["schemas"])
    assert set(references(found["paths"])) | set(references(found["components"]["schemas"])) <= known
    ids = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(ids) == len(set(ids))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from references(each)
    elif isinstance(node, dict):
        if node.get("$ref", "").startswith("#/components/schemas/"):
            yield node["$ref"].rpartition("/")[2]
        for each in node.values():
            yield from references(each)


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in found["paths"].items():
        for method, operation in item.items():
            for each in operation if method == "x-mesh-operations" else [operation]:
                yield path, each.get("method", method).upper(), each


def operation(name: str, found: dict[str, Any] | None = None) -> dict[str, Any]:
    ids = {each["operationId"]: each for _, _, each in operations(found or library())}
    return ids[name if "." in name else f"{LIBRARY}.{name}"]


def parameters(name: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in operation(name).get("parameters", [])}


def component(name: str) -> dict[str, Any]:
    found: dict[str, Any] = library()["components"]["schemas"][f"schematest.library.v1.{name}"]
    return found


def of_one(source: bytes, prefix: str = "/") -> dict[str, Any]:
    found = document([ApiSource("one", prefix, Schema.load(source))])
    check(found)
    return found


def test_the_routes() -> None:
    found = operations(library())
    routes = {(method, path, each["x-mesh-grpc-method"].rpartition("/")[2]) for path, method, each in found}
    assert {(m, p, n) for m, p, n in routes if p.startswith("/api/v1")} == {
        ("GET", "/api/v1/shelves/{shelf}", "GetShelf"),
        ("GET", "/api/v1/shelf-by-name/{name}", "GetShelf"),
        ("POST", "/api/v1/shelves", "CreateShelf"),
        ("PATCH", "/api/v1/shelves/{shelf}", "UpdateShelf"),
        ("DELETE", "/api/v1/shelves/{shelf}", "DeleteShelf"),
        ("GET", "/api/v1/shelves", "ListShelves"),
        ("POST", "/api/v1/shelves/{shelf}:move", "MoveShelf"),
        ("GET", "/api/v1/files/{path}", "ReadFile"),
        ("PUT", "/api/v1/files/{path}", "WriteFile"),
        ("GET", "/api/v1/shelves:watch", "WatchShelves"),
        ("POST", "/api/v1/shelves:import", "ImportShelves"),
        ("PURGE", "/api/v1/shelves", "Purge"),
    }
    assert ("POST", f"/api/{LIBRARY}/Chat", "Chat") in routes
    assert ("POST", "/api/Echo/Say", "Say") in routes


def test_what_an_operation_says_of_itself() -> None:
    shelf = operation("GetShelf")
    assert shelf["summary"] == "Returns one shelf."
    assert shelf["description"] == "Returns one shelf.\n\nIt must exist."
    assert shelf["tags"] == [LIBRARY]
    assert shelf["x-mesh-application"] == "library"
    assert operation("GetShelf-2")["x-mesh-grpc-method"] == f"{LIBRARY}/GetShelf"
    assert operation("DeleteShelf")["deprecated"]
    tags = {tag["name"]: tag.get("description") for tag in library()["tags"]}
    assert tags[LIBRARY] == "Keeps shelves and books."


def test_parameters_in_the_path() -> None:
    shelf = parameters("GetShelf")["shelf"]
    assert shelf["in"] == "path" and shelf["required"] and shelf["schema"] == {"type": "string"}
    assert shelf["description"] == "Part of `name`, which is `shelves/*`."
    assert "x-mesh-multi-segment" not in shelf
    rest = parameters("ReadFile")["path"]
    assert rest["x-mesh-multi-segment"] and "slashes stay as they are" in rest["description"]


def test_parameters_in_the_query() -> None:
    found = parameters("ListShelves")
    assert list(found) == ["pageSize", "pageToken", "filter.themePrefix", "filter.open", "kinds", "since"]
    assert all(each["in"] == "query" for each in found.values())
    assert found["kinds"]["schema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/schematest.library.v1.Shelf.Kind"},
    }
    assert found["filter.open"]["schema"]["type"] == ["boolean", "null"]
    assert found["since"]["schema"]["format"] == "date-time"


def test_what_path_and_body_hold_is_not_in_the_query() -> None:
    assert list(parameters("UpdateShelf")) == ["shelf", "updateMask", "allowMissing"]
    assert list(parameters("CreateShelf")) == ["shelfId"]
    assert list(parameters("MoveShelf")) == ["shelf"]
    assert list(parameters("GetShelf")) == ["shelf", "readMask"]


def request(name: str) -> dict[str, Any]:
    found: dict[str, Any] = operation(name)["requestBody"]["content"]
    return found


def answer(name: str) -> dict[str, Any]:
    found: dict[str, Any] = operation(name)["responses"]["200"]["content"]
    return found


def test_bodies() -> None:
    assert request("CreateShelf") == {"application/json": {"schema": SHELF}}
    assert "requestBody" not in operation("GetShelf")
    assert list(request("MoveShelf")["application/json"]["schema"]["properties"]) == ["toLibrary"]
    assert request("WriteFile") == {"*/*": {}}
    assert request("ImportShelves") == {"application/x-ndjson": {"schema": SHELF}}


def test_answers() -> None:
    assert answer("GetShelf") == {"application/json": {"schema": SHELF}}
    assert answer("ListShelves") == {"application/json": {"schema": {"type": "array", "items": SHELF}}}
    assert answer("DeleteShelf") == {"application/json": {"schema": {"type": "object"}}}
    assert answer("ReadFile") == {"*/*": {}}
    assert list(answer("WatchShelves")) == ["application/x-ndjson", "text/event-stream", "application/json"]
    assert answer("WatchShelves")["application/json"]["schema"] == {"type": "array", "items": SHELF}


def test_errors_are_problems() -> None:
    assert set(operation("GetShelf")["responses"]) == {"200", "400", "404", "503", "504", "default"}
    shared = library()["components"]["responses"]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert all(each["content"] == problem for each in shared.values())
    assert "Retry-After" in shared["Unavailable"]["headers"]


def test_fields() -> None:
    shelf = component("Shelf")
    fields = shelf["properties"]
    assert shelf["description"] == "A shelf." and shelf["required"] == ["theme"]
    assert fields["name"] == {"type": "string", "description": "Its name: shelves/{shelf}."}
    assert fields["createTime"]["readOnly"] and fields["createTime"]["format"] == "date-time"
    assert fields["secret"]["writeOnly"] and fields["seal"]["deprecated"]
    assert fields["seal"]["contentEncoding"] == "base64"
    assert fields["parts"]["additionalProperties"] == SHELF
    assert fields["parts"]["propertyNames"] == {"pattern": "^-?[0-9]+$"}
    assert fields["innerShelves"] == {"type": "array", "items": SHELF}
    assert fields["width"]["description"] == "In metres.\n\nAt most one of width, booksMax (oneof size)."
    assert fields["width"]["x-mesh-oneof"] == fields["booksMax"]["x-mesh-oneof"] == "size"
    assert "description" not in fields["open"] and "x-mesh-oneof" not in fields["open"]
    assert fields["nothing"] == {"type": "null"}
    assert fields["maybe"]["type"] == ["string", "integer", "null"]
    assert fields["built"] == {"$ref": "#/components/schemas/google.type.Date"}


def test_enums() -> None:
    kind = component("Shelf.Kind")
    assert (kind["type"], kind["enum"]) == ("string", ["KIND_UNSPECIFIED", "WOOD", "STEEL"])
    assert kind["description"] == "What kind it is.\n\n- KIND_UNSPECIFIED\n- WOOD: Made of wood."


def test_json_options_show() -> None:
    numbers = JsonOptions(proto_names=True, enums_as_numbers=True)
    found = document([ApiSource("library", "/api", schema(), numbers)])
    check(found)
    kind = found["components"]["schemas"]["schematest.library.v1.Shelf.Kind"]
    assert (kind["type"], kind["enum"]) == ("integer", [0, 1, 2]) and "- WOOD = 1: Made of wood." in kind["description"]
    assert "create_time" in found["components"]["schemas"]["schematest.library.v1.Shelf"]["properties"]
    assert "page_size" in {each["name"] for each in operation("ListShelves", found)["parameters"]}


@pytest.mark.parametrize("emit_defaults", [False, True])
def test_rendered_messages_fit_the_schema(emit_defaults: bool) -> None:
    """The codec and the document are written apart from each other."""
    found = schema()
    method = found.services[LIBRARY].methods["CreateShelf"]
    body = {
        "name": "shelves/1", "theme": "art", "kind": "WOOD", "createTime": "2026-01-31T12:00:00Z",
        "parts": {"-1": {"theme": "inner"}}, "kinds": {"a": "STEEL"}, "innerShelves": [{"theme": "x"}],
        "width": "NaN", "open": False, "seal": "AAE=", "extra": {"a": [1, None]}, "nothing": None, "maybe": "7",
        "built": {"year": 2026}, "mask": 4294967295, "secret": "s",
    }  # fmt: skip
    codec = Codecs(found.pool, JsonOptions(emit_defaults=emit_defaults)).get(method.output)
    message = codec.parse(json.dumps(body).encode())
    whole = {**SHELF, "components": library()["components"]}
    validator = Draft202012Validator(whole)
    validator.validate(json.loads(codec.render(message)))
    assert not validator.is_valid(body | {"mask": -1})
    assert not validator.is_valid(body | {"maybe": "x"})
    assert not validator.is_valid(body | {"parts": {"x": {}}})
    assert not validator.is_valid(body | {"kind": "PAPER"})
    assert not validator.is_valid(body | {"width": "many"})


def every_well_known(file: FileDescriptorProto) -> None:
    names = ["Any", "Struct", "Value", "ListValue", "Empty", "Timestamp", "Duration", "FieldMask"]
    names += [
        f"{kind}Value" for kind in ("Bool", "String", "Bytes", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double")
    ]
    for i, name in enumerate(names, start=10):
        file.message_type[0].field.add(
            name=f"a{name}".lower(),
            number=i,
            label=1,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".google.protobuf.{name}",
        )
    for i in range(1, 19):
        if i not in (
            FieldDescriptorProto.TYPE_GROUP,
            FieldDescriptorProto.TYPE_MESSAGE,
            FieldDescriptorProto.TYPE_ENUM,
        ):
            file.message_type[0].field.add(name=f"s{i}", number=100 + i, label=1, type=i)
    own = ("any", "struct", "empty", "timestamp", "duration", "field_mask", "wrappers")
    file.dependency.extend(f"google/protobuf/{name}.proto" for name in own)


def refusal(binding: Binding, query: str) -> str:
    try:
        binding.request([("s3", "1")], query.encode(), b"")
    except RequestRefused as error:
        return error.message
    return ""


def test_every_type_of_field() -> None:
    found = of_one(small(every_well_known))
    assert not [name for name in found["components"]["schemas"] if name.startswith("google.protobuf")]

    def get(file: FileDescriptorProto) -> None:
        every_well_known(file)
        options(file).Extensions[annotations_pb2.http].get = "/x/{s3}"

    found = of_one(small(get))
    (only,) = [each for _, _, each in operations(found)]
    named = {each["name"]: each for each in only["parameters"]}
    assert named["s3"]["schema"]["format"] == "int64" and named["s3"]["in"] == "path"
    assert "schema" not in named["astruct"] and "application/json" in named["astruct"]["content"]
    assert "aempty" not in named and "aduration" in named
    method = Schema.load(small(get)).services["a.S"].methods["Do"]
    binding = Binding(method.rules[0], method, ["s3"], Codecs(method.input.file.pool))
    for name, each in named.items():
        if each["in"] == "query":
            assert "unknown parameter" not in refusal(binding, f"{name}=x")
            assert "unknown parameter" in refusal(binding, f"{name}x=x")


def test_a_path_that_openapi_has_once_only() -> None:
    def change(file: FileDescriptorProto) -> None:
        rule = options(file).Extensions[annotations_pb2.http]
        rule.get = "/v1/{text}"
        rule.additional_bindings.add(delete="/v1/{inner.text}")
        rule.additional_bindings.add(get="/v1/{inner.text=**}")
        rule.additional_bindings.add(get="/v1/*/x")
        rule.additional_bindings.add(get="/v1/{text=*}/{inner.text=b/*/*}:go")

    found = of_one(small(change))
    assert list(found["paths"]) == ["/v1/{text}", "/v1/{text}/b/{b}/{text_2}:go", "/v1/{v1}/x"]
    item = found["paths"]["/v1/{text}"]
    assert item["delete"]["parameters"][0]["description"] == "The field `inner.text`."
    assert [each["method"] for each in item["x-mesh-operations"]] == ["GET"]
    assert item["x-mesh-operations"][0]["parameters"][0]["x-mesh-multi-segment"]


@pytest.mark.parametrize(
    ("prefix", "template", "path", "names"),
    [
        ("/", "/a", "/a", []),
        ("/p", "/{name=shelves/*/books/*}", "/p/shelves/{shelf}/books/{book}", ["shelf", "book"]),
        ("/", "/{name=libraries/*/boxes/**}:x", "/libraries/{library}/boxes/{box}:x", ["library", "box"]),
        ("/", "/{a.b}/{c=**}", "/{a.b}/{c}", ["a.b", "c"]),
        ("/", "/{name=*/*}", "/{name}/{name_2}", ["name", "name_2"]),
        ("/", "/%7B/*", "/%7B/{segment}", ["segment"]),
        ("/", "/status/*", "/status/{status}", ["status"]),
    ],
)
def test_paths(prefix: str, template: str, path: str, names: list[str]) -> None:
    found = api_path(prefix, template)
    assert (found.text, [each.name for each in found.parameters]) == (path, names)


def test_messages_in_messages_do_not_go_on_for_ever() -> None:
    def change(file: FileDescriptorProto) -> None:
        types = [f"T{i}" for i in range(12)]
        for name in types:
            message = file.message_type.add(name=name)
            for i, other in enumerate(types, start=1):
                message.field.add(
                    name=f"f{i}", number=i, label=1, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=f".a.{other}"
                )
            message.field.add(name="leaf", number=99, label=1, type=FieldDescriptorProto.TYPE_STRING)
        options(file).Extensions[annotations_pb2.http].get = "/x"
        file.service[0].method[0].input_type = ".a.T0"

    (only,) = [each for _, _, each in operations(of_one(small(change)))]
    names = [each["name"] for each in only["parameters"]]
    assert 30 < len(names) <= QUERY_PARAMETERS_MAX
    assert {"leaf", "f2.leaf", "f12.leaf", "f2.f3.leaf"} <= set(names)
    assert not any("f1." in name or "f2.f2." in name for name in names)


def test_an_operation_has_so_many_parameters_and_no_more() -> None:
    def change(file: FileDescriptorProto) -> None:
        options(file).Extensions[annotations_pb2.http].get = "/x"
        for i in range(200):
            file.message_type[0].field.add(name=f"n{i}", number=10 + i, label=1, type=FieldDescriptorProto.TYPE_STRING)

    (only,) = [each for _, _, each in operations(of_one(small(change)))]
    assert len(only["parameters"]) == QUERY_PARAMETERS_MAX


def test_applications_with_one_schema_share_its_types() -> None:
    found = document([ApiSource("b", "/b", schema()), ApiSource("a", "/a", Schema.load(stubs.generated()[1]))])
    check(found)
    assert set(found["components"]["schemas"]) == set(library()["components"]["schemas"])
    assert operation(f"{LIBRARY}.Chat", found)["x-mesh-application"] == "a"
    assert operation(f"{LIBRARY}.Chat-b", found)["x-mesh-application"] == "b"
    assert operation(f"{LIBRARY}.GetShelf-b-2", found)["x-mesh-application"] == "b"


def test_applications_whose_types_differ_have_types_of_their_own() -> None:
    def change(file: FileDescriptorProto) -> None:
        file.message_type[0].field.add(name="more", number=9, label=1, type=FieldDescriptorProto.TYPE_STRING)

    found = document([ApiSource("a", "/a", Schema.load(small())), ApiSource("b", "/b", Schema.load(small(change)))])
    check(found)
    assert set(found["components"]["schemas"]) == {"Problem", "a.M", "a.M-b"}
    assert found["components"]["schemas"]["a.M-b"]["properties"]["inner"] == {"$ref": "#/components/schemas/a.M-b"}
    assert "more" not in found["components"]["schemas"]["a.M"]["properties"]


def test_what_is_not_reachable_over_http_is_left_out() -> None:
    found = document([ApiSource("library", "", schema())])
    check(found)
    assert found["paths"] == {} and found["tags"] == []


def test_the_same_input_in_any_order_gives_the_same_bytes() -> None:
    files = list(stubs.described().file)
    one = [ApiSource("a", "/a", schema()), ApiSource("b", "/b", Schema.load(small(http())))]
    again = Schema.load(FileDescriptorSet(file=files[::-1]).SerializeToString())
    other = [ApiSource("b", "/b", Schema.load(small(http()))), ApiSource("a", "/a", again)]
    assert render(one) == render(other)
    assert json.loads(render(one)) == document(one)
