"""The gRPC front: the listener on the gRPC port, and `mesh.v1.IngressService` on it.

Owns the listener, and for IngressService gRPC's side of a request. User services are in `grpc_services`, health in
`grpc_health`, reflection in `reflection`. All policy is in `pipeline` and below.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc

from mesh.errors import Conflict, InvalidConfig, MeshError, Problem
from mesh.gateway import answer, listening_sockets
from mesh.gateway.exchange import Exchange
from mesh.gateway.grpc_health import Health
from mesh.gateway.grpc_services import Services
from mesh.gateway.grpc_status import (
    APPLICATION_METADATA,
    MODEL_ID_METADATA,
    REQUEST_ID_METADATA,
    Told,
    check_message,
    log_failure,
    peer_address,
    refuse,
)
from mesh.gateway.heads import MODEL_ID_HEADER, answer_headers, check_field, check_method, check_size, read_head
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.reflection import Reflection
from mesh.gateway.traffic import Traffic
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.messages import PREFIX_BYTES, MessageTooLarge
from mesh.pipe.retry import IDEMPOTENT
from mesh.v1 import ingress_service_pb2
from mesh.v1 import replica_service_pb2 as pb

SPARE_BYTES = 16 * 1024 * 1024
"""What a message may be over the limit and still be refused by us, who can say why. Beyond it grpc itself refuses."""
INGRESS = "mesh.v1.IngressService"
OPTIONS = (
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class GrpcFront:
    """The gRPC listener."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._server: Any = None
        self._serving = False
        self._health = Health(pipeline)
        self.address = ""

    def listen(self) -> None:
        """Take the port; whoever connects waits. Raises Conflict when it is taken."""
        settings = self._pipeline.settings
        bounds = (
            ("grpc.so_reuseport", int(settings.shared_ports)),
            ("grpc.max_receive_message_length", settings.message_bytes_max + SPARE_BYTES),
            ("grpc.max_send_message_length", settings.message_bytes_max),
        )
        age_s = settings.grpc_connection_age_s
        ages = (("grpc.max_connection_age_ms", max(1, int(age_s * 1000))),) if age_s else ()
        server = grpc.aio.server(options=(*OPTIONS, *ages, *bounds))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        ingress, reflection = Ingress(self._pipeline).handlers(), Reflection(self._pipeline.schemas).handlers()
        server.add_generic_rpc_handlers((ingress, *reflection, Services(self._pipeline)))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            hint = "end the process that uses it, or choose another with --grpc-port (0: a free one)"
            raise Conflict(f"cannot listen for gRPC on {host}:{settings.grpc_port}", hint=hint) from error
        self._server = server
        self.address = f"{host}:{port}"

    async def serve(self) -> None:
        """Answer from now on. After `listen`."""
        self._serving = True
        await self._server.start()
        await self._health.start()

    def lame(self) -> None:
        """Tell whoever asks for its health to go elsewhere."""
        self._health.drain()

    def close_listener(self) -> None:
        """Take no new connections; those that stand go on."""
        listening_sockets.shut(int(self.address.rpartition(":")[2]))

    async def drain(self, grace_s: float) -> None:
        """Ask all clients to go elsewhere (GOAWAY) and return when their last call is over, `grace_s` at most."""
        if self._server is not None and self._serving:
            await self._server.stop(grace_s)

    async def stop(self) -> None:
        """Close the listener and all connections."""
        await self._health.stop()
        if self._server is not None:
            if not self._serving:  # one that has a port keeps it until it has run and stopped
                await self._server.start()
            await self._server.stop(0.2)
            self._server = None


class Ingress:
    """HTTP-shaped requests over gRPC. Messages are read here and not by grpc, which would tell its own errors."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._traffic = Traffic("grpc", pipeline.clock)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        handle: Any = grpc.unary_unary_rpc_method_handler(
            self.handle, response_serializer=ingress_service_pb2.HandleResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(INGRESS, {"Handle": handle})

    async def handle(self, data: bytes, context: Any) -> Any:
        """Serve one call. `data` is the HandleRequest."""
        pipeline = self._pipeline
        started = pipeline.clock.monotonic()
        told = Told()
        request = ingress_service_pb2.HandleRequest()
        code = "CANCELLED"  # what it stays when the client cancels
        try:
            pipeline.enter()
            try:
                self._parse(data, request)
                response = await self._serve(request, context, told)
                code = "OK"
            finally:
                pipeline.leave()
        except MeshError as error:
            told.request_id = told.request_id or pipeline.clock.request_id()
            code = answer.outcome(error).code
            log_failure(error, told)
            await refuse(context, error, told.request_id)
        finally:
            self._traffic.count(told.route, "Handle", code, started)
            if self._traffic.access_log:
                self._traffic.log("Handle", request.path, code, started, told.request_id)
        context.set_trailing_metadata(((REQUEST_ID_METADATA, told.request_id),))
        return response

    def _parse(self, data: bytes, request: Any) -> None:
        check_message(len(data), self._pipeline.settings.message_bytes_max)
        try:
            request.ParseFromString(data)
        except DecodeError:
            raise InvalidConfig((Problem("", "the message is no mesh.v1.HandleRequest"),)) from None

    async def _serve(self, request: Any, context: Any, told: Told) -> Any:
        pipeline = self._pipeline
        metadata = dict(context.invocation_metadata() or ())
        headers = [*_headers(request, metadata)]
        head = read_head(headers, client=peer_address(context.peer()), scheme="http")
        told.request_id = head.request_id or pipeline.clock.request_id()
        path, _, query = (request.path or "/").partition("?")
        sizes = {"fields": len(request.headers), "path_bytes": len(path.encode()), "query_bytes": len(query)}
        check_size(head, pipeline.settings, **sizes)
        if not path.startswith("/") or not request.path.isprintable():
            raise InvalidConfig((Problem("path", f"must start with '/' and be printable, not {request.path[:100]!r}"),))
        method = (request.method or ("POST" if request.body else "GET")).upper()
        check_method(method)
        route = self._route(metadata.get(APPLICATION_METADATA), path.encode())
        if APPLICATION_METADATA in metadata:
            path = route.prefix + path
        told.route = route.prefix or "/"
        left_s = context.time_remaining()
        timeout_s = min(t for t in (route.timeout_s, head.timeout_s or route.timeout_s, left_s or route.timeout_s))
        frame = pb.RequestFrame()
        to = frame.open
        to.method, to.raw_path, to.query, to.root_path = method, path.encode(), query.encode(), route.prefix
        to.headers.extend(head.passed)
        to.request_id, to.timeout_ms = told.request_id, min(int(timeout_s * 1000), 0xFFFFFFFF)
        to.scheme, to.http_version, to.end = "http", "2", not request.body
        call = Call(frame, route.dispatcher.loop, idempotent=method in IDEMPOTENT, body_follows=bool(request.body))
        call.single = True
        if head.model_id:
            call.for_model(head.model_id)
        route.dispatcher.submit(call, told.request_id)
        exchange = Exchange(pipeline.exchanges, route.dispatcher, call, timeout_s)
        upload: asyncio.Task[None] | None = None
        try:
            if request.body:
                await call.granted()
                upload = self._send_body(call, route, request.body)
            return await self._collect(call, told)
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()

    def _send_body(self, call: Call, route: Route, body: bytes) -> asyncio.Task[None] | None:
        """Send a small body whole; carry a large one in a task, for the handler may answer before it has read it."""
        if len(body) <= OPEN_BYTES_MAX:
            route.dispatcher.open(call, body, end=True)
            return None
        route.dispatcher.open(call, b"", end=False)
        return self._pipeline.tasks.spawn(_upload(call, body), name="upload")

    async def _collect(self, call: Call, told: Told) -> Any:
        head = await call.head
        parts: list[bytes] = []
        total = 0
        response = ingress_service_pb2.HandleResponse(status=head.status)
        for name, value in answer_headers(head.headers, told.request_id, framed_here=False):
            response.headers.add(name=name.decode("latin-1"), value=value.decode("latin-1"))
        left = self._pipeline.settings.message_bytes_max - response.ByteSize() - PREFIX_BYTES
        while data := await call.read():
            parts.append(data)
            total += len(data)
            if total > left:
                raise MessageTooLarge("the answer does not fit one message", hint="fetch it over HTTP")
        response.body = b"".join(parts)
        return response

    def _route(self, application: str | None, raw_path: bytes) -> Route:
        return self._pipeline.route(raw_path) if application is None else self._pipeline.application(application)


async def _upload(call: Call, body: bytes) -> None:
    with contextlib.suppress(MeshError):  # whoever collects the answer sees it
        await call.wait_accepted()
        await call.write(body, end=True)


def _headers(request: Any, metadata: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    if (given := metadata.get(REQUEST_ID_METADATA)) is not None:
        yield b"x-request-id", str(given).encode()
    for name in MODEL_ID_METADATA:
        if name in metadata:
            yield MODEL_ID_HEADER, str(metadata[name]).encode()
    for header in request.headers:
        if (name := header.name.lower()) != "content-length":  # the body says it
            check_field(name, header.value)
            yield name.encode("latin-1", "replace"), header.value.encode("latin-1", "replace")
    if request.body:
        yield b"content-length", b"%d" % len(request.body)
