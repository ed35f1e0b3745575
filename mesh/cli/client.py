"""The client of the control plane's DeploymentService.

Owns addresses, deadlines, repeats and the mapping of gRPC errors to those of mesh. Decides nothing about what it
carries. Called by the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from mesh.backoff import Backoff
from mesh.clock import SYSTEM
from mesh.connection import HandshakeFailed, channel, connect
from mesh.credentials import Credentials
from mesh.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidConfig,
    MeshError,
    NotFound,
    Problem,
    RolloutUnderWay,
    Unauthenticated,
    Unreachable,
)
from mesh.liveness import pings
from mesh.settings import ADDRESS_ENV, MESSAGE_BYTES_MAX, TOKEN_FILE_ENV
from mesh.v1 import deployment_service_pb2 as api
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub

CALL_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 5.0
"""The same for a call that only reads, where there is another address: somewhat more than a control plane waits for its
leader before it answers by itself."""
PATIENCE_S = 1.0
"""Seconds for which addresses are tried again where nobody listens."""
LEADER_PATIENCE_S = 15.0
"""Seconds for which a call is repeated that a control plane answered with UNAVAILABLE: it has no leader now."""
STORE_PATIENCE_S = 2.0
"""The same where it said that its store is away: that takes longer than a change of leader, or a person to mend it."""
READ_PATIENCE_S = 2.0
"""The same for a call that only reads: who asks can ask again."""
OUTAGE_S = 2.0
"""Seconds without an answer after which whoever watches is told that there is none."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    *pings(),
    ("grpc.enable_http_proxy", 0),
    # A fresh channel would otherwise go on with the pauses of the one before, which grow long while nobody listens.
    ("grpc.use_local_subchannel_pool", 1),
)
_STORE_UNREACHABLE = "STORE_UNREACHABLE"
"""Reason in the ErrorInfo of a control plane whose store is away."""
_REVISION = "revision/"
"""Begins the key, in the metadata of a rollout that is under way, of each application's revision."""
_NO_ANSWER = "the control plane has not answered yet"
_REOPEN = Backoff(initial_s=0.5, max_s=0.5, floor=0.2)
Stub = Callable[[grpc.aio.Channel], Any]
"""The generated stub of a service of the control plane."""
_T = TypeVar("_T")


class NotConnected(Unreachable):
    """Nobody listens, or the network is in the way."""


class StoreAway(Unreachable):
    """A control plane answers, and says that it cannot reach its store."""


class Client:
    """Calls the first of `addresses` (host:port each) that answers. Use as an async context manager.

    Every method raises Unreachable, DeadlineExceeded, or what the control plane answered as a MeshError.
    """

    def __init__(self, addresses: Sequence[str], credentials: Credentials) -> None:
        if not addresses:
            hint = f"give --address HOST:PORT, or set {ADDRESS_ENV}"
            raise InvalidConfig((Problem("", "no address of a control plane", hint),))
        for address in addresses:
            if not address.rpartition(":")[2].isdecimal():
                raise InvalidConfig((Problem("", f"the address {address!r} has no port", "write HOST:PORT"),))
        self._addresses = tuple(addresses)
        self._credentials = credentials
        self._first = 0
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._began = SYSTEM.monotonic()
        self._ends: float | None = None
        self.trouble = ""
        """Why the last attempt failed; empty if it did not."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for opened in self._channels.values():
            await opened.close()

    @property
    def address(self) -> str:
        """The address that answered last."""
        return self._addresses[self._first]

    @property
    def age_s(self) -> float:
        """Seconds since this client was made: as good as since the command began."""
        return SYSTEM.monotonic() - self._began

    @contextlib.asynccontextmanager
    async def within(self, seconds: float, what: str) -> AsyncIterator[None]:
        """Bound all calls made in the block together. Past `seconds` raises DeadlineExceeded: `what` and why."""
        self._ends = SYSTEM.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            why = self.trouble or "the control plane has not answered yet"
            hint = "it may have come through: see meshctl status, then repeat the command"
            raise DeadlineExceeded(f"{what} within {seconds:g} s\n{why}", hint=hint) from None
        finally:
            self._ends = None

    async def apply(self, request: api.ApplyRequest) -> api.ApplyResponse:
        """Make the goal state equal to a config. Raises InvalidConfig with the paths of the fields, Conflict."""
        response: api.ApplyResponse = await self.call(lambda stub: stub.Apply(request, timeout=self.left_s()))
        return response

    async def config(self, application: str = "") -> api.GetConfigResponse:
        """Return the goal state of one application or of all. Raises NotFound."""
        request = api.GetConfigRequest(application=application)
        response: api.GetConfigResponse = await self.read(lambda stub, s: stub.GetConfig(request, timeout=s))
        return response

    async def status(self, application: str = "", *, details: bool = False) -> api.Status:
        """Return the status of one application or of all. Raises NotFound."""
        request = api.GetStatusRequest(application=application, details=details)
        response: api.GetStatusResponse = await self.read(lambda stub, s: stub.GetStatus(request, timeout=s))
        return response.status

    async def delete(self, application: str) -> None:
        """Delete an application. Raises NotFound."""
        request = api.DeleteRequest(application=application)
        sent = 0

        async def work(stub: Any) -> None:
            nonlocal sent
            sent += 1
            await stub.Delete(request, timeout=self.left_s())

        try:
            await self.call(work)
        except NotFound:
            if sent == 1:
                raise  # A repeat that finds nothing follows a call that deleted it and whose answer was lost.

    async def shutdown(self) -> None:
        """Delete all applications and options."""
        await self.call(lambda stub: stub.Shutdown(api.ShutdownRequest(), timeout=self.left_s()))

    async def drain_worker(self, worker_id: str, *, undo: bool) -> None:
        """Empty a worker, or let it take replicas again. Raises NotFound."""
        request = api.DrainWorkerRequest(worker_id=worker_id, undo=undo)
        await self.call(lambda stub: stub.DrainWorker(request, timeout=self.left_s()))

    async def workers(self) -> api.ListWorkersResponse:
        """Return the workers."""
        request = api.ListWorkersRequest()
        response: api.ListWorkersResponse = await self.read(
            lambda stub, s: stub.ListWorkers(request, timeout=s), patience_s=READ_PATIENCE_S
        )
        return response

    async def watch(
        self, application: str = "", *, details: bool = False, patience_s: float, lost: Callable[[str], None]
    ) -> AsyncGenerator[api.Status, None]:
        """Yield the status now and after each change, for ever, as `stream` does. Raises NotFound."""
        request = api.WatchStatusRequest(application=application, details=details)
        stream = self.stream("WatchStatus", lambda: request, patience_s=patience_s, lost=lost)
        async with contextlib.aclosing(stream) as responses:
            async for response in responses:
                yield response.status

    async def stream(
        self,
        method: str,
        request: Callable[[], Any],
        *,
        service: Stub = DeploymentServiceStub,
        patience_s: float,
        lost: Callable[[str], None],
    ) -> AsyncGenerator[Any, None]:
        """Yield what a stream that answers at once sends, for ever. The caller bounds the time.

        A lost stream is opened again, with what `request` gives then; Unreachable is raised when that fails for
        `patience_s` seconds. `lost` is told why when there was no answer for some time, once until there is one again.
        """

        async def opened(stub: Any) -> tuple[Any, Any]:
            call = getattr(stub, method)(request())
            first = await asyncio.wait_for(call.read(), CALL_TIMEOUT_S)
            if first is grpc.aio.EOF:
                raise Unreachable("the control plane ended the stream")
            return call, first

        while True:
            telling = asyncio.get_running_loop().call_later(OUTAGE_S, lambda: lost(self.trouble or _NO_ANSWER))
            try:
                call, response = await self.call(opened, service=service, patience_s=patience_s)
            finally:
                telling.cancel()
            try:
                while response is not grpc.aio.EOF:
                    yield response
                    response = await call.read()
            except grpc.aio.AioRpcError as error:
                if not isinstance(mapped := mesh_error(error, self.address), Unreachable):
                    raise mapped from error
                self.trouble = mapped.message
            finally:
                call.cancel()
            # A server that opens streams only to end them must not be asked in a tight loop.
            await asyncio.sleep(_REOPEN.pause_s(0, SYSTEM.random))

    async def read(
        self,
        work: Callable[[Any, float], Awaitable[_T]],
        *,
        service: Stub = DeploymentServiceStub,
        patience_s: float | None = None,
    ) -> _T:
        """Make a call that changes nothing: one that is not answered in time may be asked elsewhere.

        `work` is given a stub of `service` and the seconds that it may take.
        """
        seconds = READ_TIMEOUT_S if len(self._addresses) > 1 else CALL_TIMEOUT_S

        async def once(stub: Any) -> _T:
            try:
                return await work(stub, min(seconds, self.left_s()))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise TimeoutError from error
                raise

        return await self.call(once, service=service, patience_s=patience_s)

    def left_s(self) -> float:
        """Return the seconds for one call."""
        left_s = CALL_TIMEOUT_S if self._ends is None else self._ends - SYSTEM.monotonic()
        return max(0.0, min(CALL_TIMEOUT_S, left_s))

    async def call(
        self,
        work: Callable[[Any], Awaitable[_T]],
        *,
        service: Stub = DeploymentServiceStub,
        patience_s: float | None = None,
    ) -> _T:
        """Try all addresses in turn, and again after a pause while that may help or for `patience_s` seconds.

        `work` is given a stub of `service`; what it calls must be safe to repeat.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            wait=wait_random_exponential(multiplier=0.1, min=0.05, max=1.0),
            stop=lambda state: _given_up(state, patience_s),
            reraise=True,
        )
        result: _T = await retrying(self._anywhere, work, service)
        return result

    async def _anywhere(self, work: Callable[[Any], Awaitable[_T]], service: Stub) -> _T:
        failed: list[Unreachable] = []
        for i in range(len(self._addresses)):
            index = (self._first + i) % len(self._addresses)
            address = self._addresses[index]
            try:
                result = await work(service(await self._connected(address)))
            except grpc.aio.AioRpcError as error:
                if not isinstance(mapped := mesh_error(error, address), Unreachable):
                    raise mapped from error
                failed.append(mapped)
            except TimeoutError:
                failed.append(Unreachable(f"control plane {address} does not answer"))
            except Unreachable as error:
                failed.append(error)
            else:
                self._first, self.trouble = index, ""
                return result
            # The first answer: who is asked with little time left can only say that it was too little.
            self.trouble = next((e.message for e in failed if not isinstance(e, NotConnected)), self.trouble)
        # Who answered, even with "no leader", is more telling than who did not; who knows why, most of all.
        told = next((error for error in failed if not isinstance(error, NotConnected)), self._nobody())
        told = next((error for error in failed if isinstance(error, StoreAway)), told)
        self.trouble = told.message
        raise told

    async def _connected(self, address: str) -> grpc.aio.Channel:
        """Return a channel that is connected. Raises NotConnected as soon as connecting has failed once."""
        opened = self._channels.get(address)
        if opened is None:
            opened = self._channels[address] = channel(address, self._credentials, _OPTIONS)
        try:
            await connect(opened, address)
        except Unreachable as error:
            # A fresh channel next time: this one would wait out its own back-off first.
            await self._channels.pop(address).close()
            if isinstance(error, HandshakeFailed):
                raise
            raise self._nobody() from None
        return opened

    def _nobody(self) -> NotConnected:
        where = ", ".join(self._addresses)
        hint = f"start one with meshctl start, or name another with --address or {ADDRESS_ENV}"
        return NotConnected(f"no control plane answers at {where}", hint=hint)


def _given_up(state: RetryCallState, patience_s: float | None) -> bool:
    if patience_s is None:
        error = state.outcome.exception() if state.outcome is not None else None
        patience_s = LEADER_PATIENCE_S
        if isinstance(error, NotConnected | HandshakeFailed):
            patience_s = PATIENCE_S
        elif isinstance(error, StoreAway):
            patience_s = STORE_PATIENCE_S
    return (state.seconds_since_start or 0.0) >= patience_s


def mesh_error(error: grpc.aio.AioRpcError, address: str) -> MeshError:
    """Return what the control plane at `address` answered as an error of mesh."""
    details = error.details() or error.code().name
    problems, reason, hints = _told(error)
    hint = hints.get("hint", "")
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidConfig(problems or (Problem("", details, hint),))
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(details, hint=hint or "meshctl status lists what there is")
        case grpc.StatusCode.ABORTED if revisions := _revisions(hints):
            return RolloutUnderWay(revisions)
        case grpc.StatusCode.ABORTED | grpc.StatusCode.ALREADY_EXISTS | grpc.StatusCode.FAILED_PRECONDITION:
            return Conflict(details, hint=hint or "try again")
        case grpc.StatusCode.UNAVAILABLE:
            kind = StoreAway if reason == _STORE_UNREACHABLE else Unreachable
            return kind(f"control plane {address}: {details}", hint=hint or "try again in a few seconds")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"control plane {address} did not answer in time", hint=hint)
        case grpc.StatusCode.UNAUTHENTICATED:
            fix = f"name the file that holds its token with --token-file or {TOKEN_FILE_ENV}"
            return Unauthenticated(f"control plane {address} does not take calls from here: {details}", hint=fix)
        case grpc.StatusCode.UNIMPLEMENTED:
            return MeshError(f"{address} is not a control plane of mesh, or of another version: {details}")
        case code:
            return MeshError(f"control plane {address}: {details} ({code.name})", hint=hint)


def _revisions(hints: Mapping[str, str]) -> dict[str, int]:
    """Return the revisions that applications are on their way to, by name, if that is what the error is about."""
    told = ((name, value) for name, value in hints.items() if name.startswith(_REVISION) and value.isdecimal())
    return {name.removeprefix(_REVISION): int(value) for name, value in told}


def _told(error: grpc.aio.AioRpcError) -> tuple[tuple[Problem, ...], str, Mapping[str, str]]:
    """Return the fields that the control plane found wrong, its reason in one word, and the hints that it gave."""
    status = rpc_status.from_call(error)
    bad_request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        for wanted in (bad_request, info):
            if detail.Is(wanted.DESCRIPTOR):
                detail.Unpack(wanted)
    hints = dict(info.metadata)
    problems = tuple(
        Problem(violation.field, violation.description, hints.get(f"hint_{i}", ""))
        for i, violation in enumerate(bad_request.field_violations)
    )
    return problems, info.reason, hints
