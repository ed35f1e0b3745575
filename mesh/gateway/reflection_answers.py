"""What server reflection answers, from the schemas that are deployed now and the services of the gateway itself.

Owns which schema is asked when several know a name, and the form of an answer. The messages are those of
grpc.reflection.v1; v1alpha differs in nothing but its name. Pure. Called by `reflection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2

from mesh.gateway.reflectionrpc import reflection_pb2 as pb
from mesh.v1 import ingress_service_pb2

V1, V1ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"
_NOT_FOUND, _INVALID_ARGUMENT = 5, 3


class SchemaLike(Protocol):
    """Services with their descriptors, in a pool of their own."""

    @property
    def services(self) -> Mapping[str, object]:
        """Those that are served, by full name."""
        ...

    @property
    def pool(self) -> DescriptorPool:
        """The files that declare them, and all that these import."""
        ...


@dataclass(frozen=True, slots=True)
class OwnSchema:
    """The services that the gateway serves itself."""

    services: Mapping[str, object]
    pool: DescriptorPool


def own_schema() -> OwnSchema:
    """Return the gateway's own services: health, ingress, and reflection in both versions."""
    pool = DescriptorPool()
    served: dict[str, object] = {V1ALPHA: None}
    for file in (health_pb2.DESCRIPTOR, ingress_service_pb2.DESCRIPTOR, pb.DESCRIPTOR):
        for needed in reversed(closure(file)):
            pool.AddSerializedFile(needed.serialized_pb)
        served |= dict.fromkeys(service.full_name for service in file.services_by_name.values())
    pool.AddSerializedFile(_v1alpha().SerializeToString())
    return OwnSchema(served, pool)


def closure(file: FileDescriptor) -> list[FileDescriptor]:
    """Return `file` and all that it needs, each once and before what it imports."""
    # By depth first, each after its imports, then turned round: a file that two others import comes after both.
    done: dict[str, FileDescriptor] = {}
    pending = [(file, False)]
    while pending:
        each, ready = pending.pop()
        if ready:
            done.setdefault(each.name, each)
        elif each.name not in done:
            pending += [(each, True), *((needed, False) for needed in each.dependencies)]
    return [*reversed(done.values())]


class Answers:
    """Answers the questions of one stream.

    Two schemas may have different files, or types, of one name. A question goes first to a schema that serves the
    service it names, then to the one that answered last: whoever asks for a service gets the files that belong to it.
    """

    def __init__(self, schemas: Callable[[], Sequence[SchemaLike]], own: SchemaLike) -> None:
        self._schemas = schemas
        self._own = own
        # Its identity, not the schema: a stream that nobody uses must keep no schema alive.
        self._last = 0

    def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """Return the answer to one question; what cannot be found is an answer too."""
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        schemas = [self._own, *self._schemas()]
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in sorted({name for schema in schemas for name in schema.services}):
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                name = request.file_by_filename
                self._files(response, schemas, "file", name, lambda pool: pool.FindFileByName(name))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                serving = [s for s in schemas if symbol in s.services or symbol.rpartition(".")[0] in s.services]
                self._files(response, serving or schemas, "symbol", symbol, lambda pool: _declaring(pool, symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                what = f"{asked.extension_number} of {asked.containing_type}"
                self._files(response, schemas, "extension", what, lambda pool: _extending(pool, asked))
            case "all_extension_numbers_of_type":
                _extension_numbers(response, schemas, request.all_extension_numbers_of_type)
            case _:
                _fail(response, _INVALID_ARGUMENT, "the request asks for nothing that this server knows")
        return response

    def _files(
        self,
        response: pb.ServerReflectionResponse,
        schemas: Iterable[SchemaLike],
        kind: str,
        name: str,
        find: Callable[[DescriptorPool], FileDescriptor],
    ) -> None:
        for schema in sorted(schemas, key=lambda schema: id(schema) != self._last):
            try:
                file = find(schema.pool)
            except KeyError:
                continue
            self._last = id(schema)
            found = response.file_descriptor_response.file_descriptor_proto
            found.extend(each.serialized_pb for each in closure(file))
            return
        _fail(response, _NOT_FOUND, f"no such {kind}: {name}")


def _declaring(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    try:
        found: FileDescriptor = pool.FindFileContainingSymbol(symbol)
    except KeyError:  # It knows everything but methods.
        found = pool.FindMethodByName(symbol).containing_service.file
    return found


def _extending(pool: Any, asked: pb.ExtensionRequest) -> FileDescriptor:
    message = pool.FindMessageTypeByName(asked.containing_type)
    found: FileDescriptor = pool.FindExtensionByNumber(message, asked.extension_number).file
    return found


def _extension_numbers(response: pb.ServerReflectionResponse, schemas: Iterable[SchemaLike], name: str) -> None:
    numbers: set[int] | None = None
    for schema in schemas:
        pool: Any = schema.pool
        try:
            message = pool.FindMessageTypeByName(name)
        except KeyError:
            continue
        numbers = (numbers or set()) | {extension.number for extension in pool.FindAllExtensions(message)}
    if numbers is None:
        _fail(response, _NOT_FOUND, f"no such message: {name}")
        return
    found = response.all_extension_numbers_response
    found.base_type_name = name
    found.extension_number.extend(sorted(numbers))


def _fail(response: pb.ServerReflectionResponse, code: int, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message


def _v1alpha() -> FileDescriptorProto:
    """Return the file of grpc.reflection.v1alpha: that of v1 under another name."""
    file = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    older = file.package + "alpha"

    def renamed(type_name: str) -> str:
        return type_name.replace(f".{file.package}.", f".{older}.")

    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = renamed(field.type_name)
    for method in file.service[0].method:
        method.input_type, method.output_type = renamed(method.input_type), renamed(method.output_type)
    file.name, file.package = file.name.replace("/v1/", "/v1alpha/"), older
    file.ClearField("options")
    return file
