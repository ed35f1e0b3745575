"""What reflection answers: which schema is asked, the form of answers, and that v1alpha is v1 under another name."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha_pb2

from mesh.gateway.reflection_answers import V1, V1ALPHA, Answers, SchemaLike, closure, own_schema
from mesh.gateway.reflectionrpc import reflection_pb2 as pb

NOT_FOUND, INVALID_ARGUMENT = 5, 3
OWN = own_schema()
OWN_NAMES = ["grpc.health.v1.Health", V1, V1ALPHA, "mesh.v1.IngressService"]


@dataclass
class Deployed:
    """A schema as the gateway has it."""

    pool: DescriptorPool = field(default_factory=DescriptorPool)
    services: dict[str, object] = field(default_factory=dict)


def file(name: str, package: str, *imports: str, message: str = "Book", service: str = "") -> FileDescriptorProto:
    made = FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=imports)
    added = made.message_type.add(name=message)
    added.field.add(name="title", number=1, type=FieldDescriptorProto.TYPE_STRING, label=1)
    if service:
        method = made.service.add(name=service).method.add(name="Get")
        method.input_type = method.output_type = f".{package}.{message}"
    return made


def deployed(*files: FileDescriptorProto, served: Sequence[str] = ()) -> Deployed:
    schema = Deployed(services=dict.fromkeys(served))
    for each in files:
        schema.pool.AddSerializedFile(each.SerializeToString())
    return schema


LIBRARY = deployed(
    file("base.proto", "base", message="Base"),
    file("left.proto", "left", "base.proto", message="Left"),
    file("right.proto", "right", "base.proto", message="Right"),
    file("library.proto", "library", "left.proto", "right.proto", service="Library"),
    served=["library.Library"],
)


def ask(*schemas: SchemaLike, **question: Any) -> pb.ServerReflectionResponse:
    return Answers(lambda: schemas, OWN).answer(pb.ServerReflectionRequest(**question))


def files(response: pb.ServerReflectionResponse) -> list[FileDescriptorProto]:
    return [FileDescriptorProto.FromString(data) for data in response.file_descriptor_response.file_descriptor_proto]


def names(response: pb.ServerReflectionResponse) -> list[str]:
    return [each.name for each in files(response)]


def test_services_are_those_deployed_and_our_own() -> None:
    response = ask(LIBRARY, list_services="*", host="here")
    listed = [service.name for service in response.list_services_response.service]
    assert listed == sorted([*OWN_NAMES, "library.Library"])
    assert response.valid_host == "here"
    assert response.original_request == pb.ServerReflectionRequest(list_services="*", host="here")


@pytest.mark.parametrize("name", OWN_NAMES)
def test_our_own_services_are_described(name: str) -> None:
    described = files(ask(file_containing_symbol=name))
    pool = DescriptorPool()
    for each in reversed(described):
        pool.AddSerializedFile(each.SerializeToString())
    assert pool.FindServiceByName(name).methods


@pytest.mark.parametrize(
    "symbol",
    ["library.Library", "library.Library.Get", "library.Book", "library.Book.title"],
)
def test_the_file_comes_first_and_each_before_what_it_imports(symbol: str) -> None:
    response = ask(LIBRARY, file_containing_symbol=symbol)
    found = names(response)
    assert found[0] == "library.proto"
    assert found[-1] == "base.proto"
    assert sorted(found) == ["base.proto", "left.proto", "library.proto", "right.proto"]
    assert response.original_request.file_containing_symbol == symbol


def test_a_file_by_its_name() -> None:
    assert names(ask(LIBRARY, file_by_filename="left.proto")) == ["left.proto", "base.proto"]


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nope.proto"},
        {"file_by_filename": ""},
        {"file_by_filename": "library.proto\0"},
        {"file_containing_symbol": "library"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "."},
        {"file_containing_symbol": "library.Library.Nope"},
        {"file_containing_symbol": ".library.Library"},
        {"file_containing_symbol": "library.Book\0"},
        {"file_containing_symbol": "ü"},
        {"file_containing_extension": pb.ExtensionRequest(containing_type="library.Book", extension_number=1000)},
        {"file_containing_extension": pb.ExtensionRequest(containing_type="library.Book", extension_number=-1)},
        {"file_containing_extension": pb.ExtensionRequest(containing_type="nope.Nope", extension_number=1)},
        {"all_extension_numbers_of_type": "nope.Nope"},
        {"all_extension_numbers_of_type": ""},
    ],
)
def test_what_is_not_there_is_an_error_that_echoes_the_question(question: dict[str, Any]) -> None:
    response = ask(LIBRARY, **question)
    assert response.error_response.error_code == NOT_FOUND
    assert response.error_response.error_message.startswith("no such ")
    assert response.original_request == pb.ServerReflectionRequest(**question)


def test_no_question_is_an_error() -> None:
    assert ask(LIBRARY, host="x").error_response.error_code == INVALID_ARGUMENT


def test_extensions() -> None:
    made = FileDescriptorProto(name="ext.proto", package="ext", syntax="proto2")
    made.message_type.add(name="Open").extension_range.add(start=100, end=200)
    for number in (120, 101):
        made.extension.add(
            name=f"more_{number}", number=number, type=FieldDescriptorProto.TYPE_INT32, label=1, extendee=".ext.Open"
        )
    schema = deployed(made)
    response = ask(LIBRARY, schema, all_extension_numbers_of_type="ext.Open")
    assert response.all_extension_numbers_response.base_type_name == "ext.Open"
    assert list(response.all_extension_numbers_response.extension_number) == [101, 120]
    asked = pb.ExtensionRequest(containing_type="ext.Open", extension_number=120)
    assert names(ask(LIBRARY, schema, file_containing_extension=asked)) == ["ext.proto"]
    assert ask(LIBRARY, all_extension_numbers_of_type="library.Book").HasField("all_extension_numbers_response")


def test_two_applications_with_one_file_name() -> None:
    first = deployed(file("api.proto", "first", service="First"), served=["first.First"])
    second = deployed(file("api.proto", "second", service="Second"), served=["second.Second"])
    answers = Answers(lambda: [first, second], OWN)

    def packages(**question: Any) -> list[str]:
        return [each.package for each in files(answers.answer(pb.ServerReflectionRequest(**question)))]

    for service in ("second.Second", "first.First", "second.Second"):
        assert packages(file_containing_symbol=service) == [service.partition(".")[0]]
        assert packages(file_by_filename="api.proto") == [service.partition(".")[0]]


def test_a_service_is_described_by_whom_serves_it() -> None:
    has_a_copy = deployed(file("old.proto", "books", service="Books"))
    serves = deployed(file("new.proto", "books", service="Books"), served=["books.Books"])
    for symbol in ("books.Books", "books.Books.Get"):
        assert names(ask(has_a_copy, serves, file_containing_symbol=symbol)) == ["new.proto"]


def test_nobody_can_describe_our_services_otherwise() -> None:
    theirs = deployed(file("theirs.proto", "grpc.health.v1", service="Health"), served=["grpc.health.v1.Health"])
    assert names(ask(theirs, file_containing_symbol="grpc.health.v1.Health")) == ["grpc_health/v1/health.proto"]


def test_a_stream_sees_changes_and_keeps_no_schema_alive() -> None:
    current = [deployed(file("a.proto", "a", service="A"), served=["a.A"])]
    answers = Answers(lambda: current, OWN)
    question = pb.ServerReflectionRequest(file_containing_symbol="a.A")
    assert names(answers.answer(question)) == ["a.proto"]
    gone = weakref.ref(current.pop())
    gc.collect()
    assert gone() is None
    assert answers.answer(question).error_response.error_code == NOT_FOUND


def test_closure_is_linear_in_imports() -> None:
    """Layers of files that import all of the layer before: paths are too many to walk."""
    layers, width = 40, 5
    made = []
    for layer in range(layers):
        imports = [f"{layer - 1}_{i}.proto" for i in range(width)] if layer else []
        made += [file(f"{layer}_{i}.proto", f"p{layer}.q{i}", *imports) for i in range(width)]
    schema = deployed(*made)
    assert len(closure(schema.pool.FindFileByName(f"{layers - 1}_0.proto"))) == (layers - 1) * width + 1


def test_v1alpha_is_on_the_wire_what_v1_is() -> None:
    described = FileDescriptorProto.FromString(OWN.pool.FindFileContainingSymbol(V1ALPHA).serialized_pb)
    theirs = FileDescriptorProto.FromString(v1alpha_pb2.DESCRIPTOR.serialized_pb)
    for each in (described, theirs):
        each.ClearField("name")
        each.ClearField("options")
        for message in each.message_type:
            for member in message.field:
                member.ClearField("json_name")
    # The order of a file's declarations is no part of what it means.
    for kind in ("message_type", "service"):
        assert sorted(getattr(described, kind), key=lambda m: m.name) == sorted(
            getattr(theirs, kind), key=lambda m: m.name
        )
    assert described.package == theirs.package


def test_the_file_may_be_loaded_from_elsewhere_too() -> None:
    """Other packages bring grpc.reflection.v1 under the same file name: the same file twice is no clash."""
    from google.protobuf import descriptor_pool

    descriptor_pool.Default().AddSerializedFile(pb.DESCRIPTOR.serialized_pb)
    assert pb.DESCRIPTOR.name == "grpc/reflection/v1/reflection.proto"
    assert v1alpha_pb2.ServerReflectionRequest.DESCRIPTOR.file.pool is pb.DESCRIPTOR.pool
