"""Clients of httpx that call mesh, for threads and for event loops: repeats within a budget, deadlines, typed errors.

Owns how httpx makes an attempt. Needs the extra `httpx`; the asynchronous one runs on asyncio. Decisions are in
`course` and `answers`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx

from mesh_client import answers
from mesh_client.course import Course
from mesh_client.credentials import OPEN, Credentials
from mesh_client.errors import MeshClientError
from mesh_client.http_call import FAILED_FROM, Requests, idempotent, is_small, timed_out
from mesh_client.policy import Policy
from mesh_client.repeating import repeat, repeat_async
from mesh_client.target import Target

LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64)
"""Connections of one client, to all addresses. Whoever has more requests under way at once waits for one."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_WHOLE = "mesh_client.whole"
"""Among a request's extensions: whether its answer is read as a whole, within the time of the request."""


def httpx_client(
    addresses: str | Sequence[str],
    *,
    policy: Policy | None = None,
    credentials: Credentials = OPEN,
    raise_errors: bool = True,
    target: Target | None = None,
) -> httpx.Client:
    """Return a client for "http://host:port" or several of them; `client.get("/path")` goes to each in turn.

    Answers from 400 on are raised as MeshClientError, unless `raise_errors` is false. A number given as `timeout=`
    bounds the request with all attempts and, unless the answer is streamed, reading it.
    `mesh_client.over_httpx.MeshTransport` is the same for a client of your own, but for that reading. Raises
    ValueError.
    """
    shared = Requests(addresses, policy=policy, credentials=credentials, raise_errors=raise_errors, target=target)
    inner = httpx.HTTPTransport(verify=_verify(credentials), limits=LIMITS)
    return _Client(base_url=shared.origins[0], transport=MeshTransport(shared, inner), timeout=None)


def httpx_async_client(
    addresses: str | Sequence[str],
    *,
    policy: Policy | None = None,
    credentials: Credentials = OPEN,
    raise_errors: bool = True,
    target: Target | None = None,
) -> httpx.AsyncClient:
    """Return the same for event loops."""
    shared = Requests(addresses, policy=policy, credentials=credentials, raise_errors=raise_errors, target=target)
    inner = httpx.AsyncHTTPTransport(verify=_verify(credentials), limits=LIMITS)
    return _AsyncClient(base_url=shared.origins[0], transport=AsyncMeshTransport(shared, inner), timeout=None)


class _Client(httpx.Client):
    def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        request.extensions = {**request.extensions, _WHOLE: not stream}
        return super().send(request, stream=stream, **more)


class _AsyncClient(httpx.AsyncClient):
    async def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        request.extensions = {**request.extensions, _WHOLE: not stream}
        return await super().send(request, stream=stream, **more)


class MeshTransport(httpx.BaseTransport):
    """Sends requests to the addresses of `shared` in turn, by `inner`. Other hosts than those it leaves alone."""

    def __init__(self, shared: Requests, inner: httpx.BaseTransport) -> None:
        self._shared = shared
        self._inner = inner

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer. Raises MeshClientError."""
        shared = self._shared
        if not _is_ours(request, shared):
            return self._inner.handle_request(request)
        course, request_id = _course(request, shared)
        failed: MeshClientError | None = None

        def attempt(seconds: float | None) -> httpx.Response:
            nonlocal failed
            if failed is not None and failed.response is not None:
                failed.response.close()
            try:
                return self._anywhere(request, seconds, request_id)
            except MeshClientError as error:
                failed = error
                raise

        try:
            response = repeat(shared.target, course, attempt, request_id=request_id)
        except MeshClientError as error:
            if error.response is None:
                raise
            if shared.raise_errors:
                error.response.close()
                raise
            response = error.response
        if not response.is_stream_consumed:
            response.stream = _Parts(response, _Time(request, shared, course, request_id))
        return response

    def _anywhere(self, request: httpx.Request, seconds: float | None, request_id: str) -> httpx.Response:
        shared, refused = self._shared, []
        cause: Exception | None = None
        for origin in shared.order():
            try:
                response = self._inner.handle_request(_sent(request, origin, shared, seconds, request_id))
                shared.answered(origin)
                if response.status_code >= FAILED_FROM:
                    if is_small(response.headers):
                        response.read()
                    raise _failed(shared, response)
                return response
            except _NEVER_SENT as error:
                shared.refused(origin)
                refused.append(f"{origin}: {error}")
                cause = error
            except httpx.TransportError as error:
                raise _error(error, seconds) from error
        raise answers.not_connected(f"no connection: {'; '.join(refused)}") from cause


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """The same for event loops."""

    def __init__(self, shared: Requests, inner: httpx.AsyncBaseTransport) -> None:
        self._shared = shared
        self._inner = inner

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer. Raises MeshClientError."""
        shared = self._shared
        if not _is_ours(request, shared):
            return await self._inner.handle_async_request(request)
        course, request_id = _course(request, shared)
        failed: list[httpx.Response] = []

        async def attempt(seconds: float | None) -> httpx.Response:
            while failed:
                await failed.pop().aclose()
            try:
                async with asyncio.timeout(seconds):
                    return await self._anywhere(request, seconds, request_id)
            except TimeoutError:
                raise timed_out(seconds) from None
            except MeshClientError as error:
                if error.response is not None:
                    failed.append(error.response)
                raise

        try:
            response = await repeat_async(
                shared.target, course, attempt, request_id=request_id, discard=httpx.Response.aclose
            )
        except MeshClientError as error:
            if error.response is None or shared.raise_errors:
                raise
            failed.remove(error.response)
            response = error.response
        finally:
            for each in failed:
                await each.aclose()
        if not response.is_stream_consumed:
            response.stream = _AsyncParts(response, _Time(request, shared, course, request_id))
        return response

    async def _anywhere(self, request: httpx.Request, seconds: float | None, request_id: str) -> httpx.Response:
        shared, refused = self._shared, []
        cause: Exception | None = None
        for origin in shared.order():
            try:
                response = await self._inner.handle_async_request(_sent(request, origin, shared, seconds, request_id))
                shared.answered(origin)
                if response.status_code >= FAILED_FROM:
                    if is_small(response.headers):
                        await response.aread()
                    raise _failed(shared, response)
                return response
            except _NEVER_SENT as error:
                shared.refused(origin)
                refused.append(f"{origin}: {error}")
                cause = error
            except httpx.TransportError as error:
                raise _error(error, seconds) from error
        raise answers.not_connected(f"no connection: {'; '.join(refused)}") from cause


class _Time:
    """What is left for reading an answer: of one that is read as a whole, of its request's time; else no limit."""

    def __init__(self, request: httpx.Request, shared: Requests, course: Course, request_id: str) -> None:
        self._whole = bool(request.extensions.get(_WHOLE))
        self._shared = shared
        self._course = course
        self._request_id = request_id

    def left_s(self) -> float | None:
        """Return the seconds that are left, None: no limit. Raises DeadlineExceeded."""
        if not self._whole:
            return None
        try:
            return self._course.left_s(self._shared.target.clock.monotonic())
        except MeshClientError as error:
            raise self.told(error) from None

    def told(self, error: Exception) -> Exception:
        """Return what the reader is told of `error`."""
        if isinstance(error, httpx.TransportError):
            error = _error(error, None)
        if isinstance(error, MeshClientError):
            error.request_id, error.attempts = self._request_id, max(1, self._course.attempts)
        return error

    def over(self) -> MeshClientError:
        """Return the error of a part that came too late."""
        error = self._course.too_late()
        error.request_id = self._request_id
        return error


class _Parts(httpx.SyncByteStream):
    """The body of an answer. What ends it too soon has a type. The time is looked at after each part."""

    def __init__(self, response: httpx.Response, time: _Time) -> None:
        self._inner: Any = response.stream
        self._time = time

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self._inner:
                self._time.left_s()
                yield part
        except httpx.TransportError as error:
            raise self._time.told(error) from error

    def close(self) -> None:
        self._inner.close()


class _AsyncParts(httpx.AsyncByteStream):
    """The same for event loops."""

    def __init__(self, response: httpx.Response, time: _Time) -> None:
        self._inner: Any = response.stream
        self._time = time

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner)
        while True:
            try:
                async with asyncio.timeout(self._time.left_s()):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise self._time.over() from None
            except httpx.TransportError as error:
                raise self._time.told(error) from error
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


def _verify(credentials: Credentials) -> ssl.SSLContext | bool:
    if credentials.ca is None and credentials.cert is None:
        return True
    context = ssl.create_default_context(cafile=None if credentials.ca is None else str(credentials.ca))
    if credentials.cert is not None and credentials.key is not None:
        context.load_cert_chain(str(credentials.cert), str(credentials.key))
    return context


def _is_ours(request: httpx.Request, shared: Requests) -> bool:
    return f"{request.url.scheme}://{request.url.netloc.decode('ascii')}" in shared.origins


def _course(request: httpx.Request, shared: Requests) -> tuple[Course, str]:
    target, given = shared.target, request.extensions.get("timeout", {}).get("read")
    course = target.course(timeout_s=target.timeout_s(given), idempotent=idempotent(request.method))
    # What is read as it is sent is gone then.
    course.spent = not isinstance(request.stream, httpx.ByteStream)
    course.hedgeable = course.hedgeable and not course.spent
    return course, target.request_id()


def _sent(
    request: httpx.Request, origin: str, shared: Requests, seconds: float | None, request_id: str
) -> httpx.Request:
    """Return a request as one attempt sends it."""
    at = httpx.URL(origin)
    url = request.url.copy_with(scheme=at.scheme, netloc=at.netloc)
    headers = request.headers.copy()
    if headers.get("host", "") == request.url.netloc.decode("ascii"):
        headers["host"] = at.netloc.decode("ascii")
    shared.complete(headers, seconds, request_id)
    timeout: dict[str, Any] = dict.fromkeys(("read", "write", "pool"), seconds)
    extensions = {**request.extensions, "timeout": {**timeout, "connect": shared.connect_timeout_s(seconds)}}
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=extensions)


def _failed(shared: Requests, response: httpx.Response) -> MeshClientError:
    body = response.content if response.is_stream_consumed else b""
    error = shared.error(response.status_code, response.headers, body)
    error.response = response
    return error


def _error(error: httpx.TransportError, seconds: float | None) -> Exception:
    if isinstance(error, httpx.TimeoutException):
        return timed_out(seconds)
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return answers.broken(f"the connection broke: {error}")
    return error
