"""A control plane that does what a test tells it: `WorkerService` over a real gRPC server, one object per stream."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

import grpc

from mesh import wire
from mesh.model import ApplicationConfig, Generation, ReplicaSpec, ReplicaState, ReplicaStatus
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.v1.package_service_pb2 import DownloadRequest, DownloadResponse
from mesh.v1.package_service_pb2_grpc import PackageServiceServicer, add_PackageServiceServicer_to_server
from mesh.v1.worker_service_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server

WAIT_SECONDS = 30.0
T = TypeVar("T")


class WorkerSession:
    """One stream as the control plane sees it."""

    def __init__(
        self, hello: worker_service_pb2.Hello, send: asyncio.Queue[worker_service_pb2.SessionResponse]
    ) -> None:
        self.hello = hello
        self.statuses: dict[str, ReplicaStatus] = {}
        self.results: dict[str, worker_service_pb2.BuildResult] = {}
        self.seen: list[str] = []
        """Kinds of all messages, in order."""
        self.states: dict[str, list[ReplicaState]] = {}
        """States of each replica in the order in which they were reported, without repeats."""
        self.over = asyncio.Event()
        self.closing = asyncio.Event()
        self._send = send
        self._news = asyncio.Condition()
        self.take_replicas(hello.replicas)

    def take_replicas(self, replicas: Iterable[deployment_pb2.ReplicaStatus]) -> None:
        self.statuses = {r.replica_id: wire.from_proto(r, ReplicaStatus) for r in replicas}
        for replica_id, status in self.statuses.items():
            states = self.states.setdefault(replica_id, [])
            if not states or states[-1] is not status.state:
                states.append(status.state)

    async def take(self, request: worker_service_pb2.SessionRequest) -> None:
        kind = request.WhichOneof("kind") or ""
        async with self._news:
            self.seen.append(kind)
            if kind == "report":
                self.take_replicas(request.report.replicas)
            elif kind == "build_result":
                assert request.build_result.build_id not in self.results, "a build was answered twice"
                self.results[request.build_result.build_id] = request.build_result
            self._news.notify_all()

    async def end(self) -> None:
        async with self._news:
            self.over.set()
            self._news.notify_all()

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition` holds; it is tried after each message."""
        found = condition()
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            while not found:
                assert not self.over.is_set(), f"session ended; statuses: {self.statuses}"
                await self._news.wait()
                found = condition()
        return found

    async def until_state(self, replica_id: str, state: ReplicaState) -> ReplicaStatus:
        try:
            await self.until(lambda: replica_id in self.statuses and self.statuses[replica_id].state is state)
        except TimeoutError:
            raise AssertionError(f"{replica_id} is not {state.name}: {self.statuses.get(replica_id)}") from None
        return self.statuses[replica_id]

    async def assign(
        self,
        number: int,
        *specs: ReplicaSpec,
        epoch: int = 1,
        withdrawn: Iterable[str] = (),
        no_room_elsewhere: bool = False,
    ) -> None:
        assignments = worker_service_pb2.Assignments(
            generation=wire.to_proto(Generation(epoch, number), deployment_pb2.Generation),
            replicas=[wire.to_proto(spec, deployment_pb2.ReplicaSpec) for spec in specs],
            withdrawn=withdrawn,
            no_room_elsewhere=no_room_elsewhere,
        )
        await self._send.put(worker_service_pb2.SessionResponse(assignments=assignments))

    async def ask_build(self, build_id: str, config: ApplicationConfig, *, timeout_s: float = 20.0) -> None:
        build = worker_service_pb2.Build(
            build_id=build_id, config=wire.to_proto(config, deployment_pb2.ApplicationConfig), timeout_s=timeout_s
        )
        await self._send.put(worker_service_pb2.SessionResponse(build=build))

    async def cancel_build(self, build_id: str) -> None:
        cancel = worker_service_pb2.CancelBuild(build_id=build_id)
        await self._send.put(worker_service_pb2.SessionResponse(cancel_build=cancel))

    async def build(self, build_id: str, config: ApplicationConfig, *, timeout_s: float = 20.0) -> Any:
        await self.ask_build(build_id, config, timeout_s=timeout_s)
        return await self.until(lambda: self.results.get(build_id))

    async def redirect(self, leader: str) -> None:
        await self._send.put(worker_service_pb2.SessionResponse(redirect=worker_service_pb2.Redirect(leader=leader)))

    def hang_up(self) -> None:
        """End the stream."""
        self.closing.set()


class ControlPlane(WorkerServiceServicer, PackageServiceServicer):
    """Takes sessions, or redirects them. Use as an async context manager."""

    def __init__(self, *, redirect_to: str | None = None, heartbeat_interval_s: float = 0.2) -> None:
        self.redirect_to = redirect_to
        self.heartbeat_interval_s = heartbeat_interval_s
        self.silent = False
        """Say nothing more, on any session, as if frozen."""
        self.packages: dict[str, bytes] = {}
        """By digest."""
        self.before_download: Callable[[], Awaitable[object]] | None = None
        self.downloads: list[str] = []
        self.hellos: list[worker_service_pb2.Hello] = []
        self.logs: list[worker_service_pb2.SendLogsRequest] = []
        self.address = ""
        self._sessions: asyncio.Queue[WorkerSession] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, address: str = "127.0.0.1:0") -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_WorkerServiceServicer_to_server(self, self._server)
        add_PackageServiceServicer_to_server(self, self._server)
        host, _, _ = address.rpartition(":")
        self.address = f"{host}:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def stop(self) -> None:
        """Break all sessions."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def session(self) -> WorkerSession:
        """Wait for the next worker that was welcomed."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._sessions.get()

    async def Session(
        self, request_iterator: AsyncIterator[worker_service_pb2.SessionRequest], context: Any
    ) -> AsyncIterator[worker_service_pb2.SessionResponse]:
        first = await anext(aiter(request_iterator))
        assert first.WhichOneof("kind") == "hello", first
        self.hellos.append(first.hello)
        if self.redirect_to is not None:
            yield worker_service_pb2.SessionResponse(redirect=worker_service_pb2.Redirect(leader=self.redirect_to))
            return
        welcome = worker_service_pb2.Welcome(heartbeat_interval_s=self.heartbeat_interval_s)
        yield worker_service_pb2.SessionResponse(welcome=welcome)
        send: asyncio.Queue[worker_service_pb2.SessionResponse] = asyncio.Queue()
        session = WorkerSession(first.hello, send)
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(request_iterator, session))
                await self._sessions.put(session)
                while (message := await _next(send, session.closing, self.heartbeat_interval_s)) is not None:
                    if not self.silent:
                        yield message
                reader.cancel()
        finally:
            await session.end()

    async def Download(
        self, request: DownloadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[DownloadResponse]:
        self.downloads.append(request.digest)
        if self.before_download is not None:
            await self.before_download()
        data = self.packages.get(request.digest)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such package")
        for start in range(0, len(data), 65536):
            yield DownloadResponse(data=data[start : start + 65536])

    async def FindMissing(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Upload(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def upload(self, data: bytes) -> str:
        """Keep a package. Returns its place."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.packages[digest] = data
        return f"package:{digest}"

    async def SendLogs(self, request_iterator: Any, context: Any) -> worker_service_pb2.SendLogsResponse:
        """Take what was asked for by `WorkerSession.read_logs`."""
        async for message in request_iterator:
            self.logs.append(message)
        return worker_service_pb2.SendLogsResponse()

    async def _read(self, requests: AsyncIterator[worker_service_pb2.SessionRequest], session: WorkerSession) -> None:
        try:
            async for request in requests:
                await session.take(request)
        finally:
            session.closing.set()


async def _next(
    queue: asyncio.Queue[worker_service_pb2.SessionResponse], closing: asyncio.Event, seconds: float
) -> worker_service_pb2.SessionResponse | None:
    """The next message, a heartbeat if there is none for some seconds, or None when the session is to end."""
    item = asyncio.ensure_future(queue.get())
    end = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait((item, end), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if item.done():
            return item.result()
        return None if end.done() else worker_service_pb2.SessionResponse(heartbeat=worker_service_pb2.Heartbeat())
    finally:
        item.cancel()
        end.cancel()
