"""Reflection on a real gRPC server, asked by grpc's own client and over both versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mesh.gateway.reflection import METHOD, SERVICES, Reflection
from mesh.gateway.reflection_answers import SchemaLike
from mesh.gateway.reflectionrpc import reflection_pb2 as pb
from tests.support.calls_service import calls_descriptors, calls_schema, serving

Served = tuple[str, list[SchemaLike]]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Address of a server, and the list of schemas that it reflects."""
    schemas: list[SchemaLike] = [calls_schema()]
    async with serving(*Reflection(lambda _: schemas).handlers()) as address:
        yield address, schemas


def questions(channel: grpc.aio.Channel, service: str, **options: Any) -> Any:
    return channel.stream_stream(
        f"/{service}/{METHOD}",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )(timeout=20, **options)


async def test_grpcs_own_client_finds_everything(served: Served) -> None:
    address, _ = served

    def asked() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("calls.v1.Calls")
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("calls.v1.Nope")
            assert pool.FindFileByName("calls/v1/calls.proto") is service.file
            assert list(database.FindAllExtensionNumbers("google.protobuf.MethodOptions")) == [72295728]
            assert pool.FindServiceByName("grpc.reflection.v1alpha.ServerReflection").methods
            assert pool.FindServiceByName("grpc.reflection.v1.ServerReflection").methods
            return list(database.get_services()), [method.name for method in service.methods]

    services, methods = await asyncio.to_thread(asked)
    assert methods == ["Unary", "Many", "Sum", "Chat"]
    assert {"calls.v1.Calls", "grpc.health.v1.Health", "mesh.v1.IngressService", *SERVICES} == set(services)


@pytest.mark.parametrize("service", SERVICES)
async def test_one_stream_many_questions(served: Served, service: str) -> None:
    address, schemas = served
    async with grpc.aio.insecure_channel(address) as channel:
        call = questions(channel, service)

        async def ask(**question: Any) -> pb.ServerReflectionResponse:
            await call.write(pb.ServerReflectionRequest(**question))
            answer: pb.ServerReflectionResponse = await call.read()
            assert answer.original_request == pb.ServerReflectionRequest(**question)
            return answer

        assert (await ask(file_containing_symbol="calls.v1.Nope")).error_response.error_code == 5
        assert (await ask()).error_response.error_code == 3
        assert (await ask(file_containing_symbol="calls.v1.Calls")).HasField("file_descriptor_response")
        schemas.clear()
        assert (await ask(file_containing_symbol="calls.v1.Calls")).error_response.error_code == 5
        schemas.append(calls_schema())
        assert (await ask(file_by_filename="calls/v1/calls.proto")).HasField("file_descriptor_response")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("service", SERVICES)
async def test_metadata_chooses_among_applications_with_one_service(service: str) -> None:
    """Each may have its own version of it; whoever calls one of them must get the messages of that one."""
    newer = FileDescriptorProto.FromString(calls_schema().pool.FindFileByName("calls/v1/calls.proto").serialized_pb)
    newer.message_type.add(name="OfTheNewer")
    schemas = {"older": calls_schema(), "newer": schema_of(newer)}

    def of(application: str | None) -> list[SchemaLike]:
        return [*schemas.values()] if application is None else [schemas[application]]

    async with serving(*Reflection(of).handlers()) as address, grpc.aio.insecure_channel(address) as channel:
        for application in schemas:
            call = questions(channel, service, metadata=(("application", application),))
            await call.write(pb.ServerReflectionRequest(file_containing_symbol="calls.v1.Calls"))
            files = (await call.read()).file_descriptor_response.file_descriptor_proto
            names = [each.name for each in FileDescriptorProto.FromString(files[0]).message_type]
            assert ("OfTheNewer" in names) == (application == "newer")
            call.cancel()


def schema_of(changed: FileDescriptorProto) -> SchemaLike:
    pool = DescriptorPool()
    for file in calls_descriptors().file:
        pool.AddSerializedFile((changed if file.name == changed.name else file).SerializeToString())
    return SimpleNamespace(pool=pool, services={"calls.v1.Calls": None})
