"""Sessions of requests that call mesh: round robin, repeats within a budget, deadlines, typed errors.

Owns how requests makes an attempt. Needs the extra `requests`. Decisions are in `course` and `answers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from mesh_client import answers
from mesh_client.credentials import OPEN, Credentials
from mesh_client.errors import MeshClientError
from mesh_client.http_call import FAILED_FROM, Requests, idempotent, is_small, timed_out
from mesh_client.policy import Policy
from mesh_client.repeating import repeat
from mesh_client.target import Target

POOL_SIZE = 64
"""Connections that are kept for each address."""
PART_BYTES = 64 * 1024


def requests_session(
    addresses: str | Sequence[str],
    *,
    policy: Policy | None = None,
    credentials: Credentials = OPEN,
    raise_errors: bool = True,
    target: Target | None = None,
) -> MeshSession:
    """Return a session for "http://host:port" or several of them; `session.get("/path")` goes to each in turn.

    Answers from 400 on are raised as MeshClientError, unless `raise_errors` is false. A number given as `timeout=`
    bounds the request with all attempts and, unless the answer is streamed, reading it. Raises ValueError.
    """
    shared = Requests(addresses, policy=policy, credentials=credentials, raise_errors=raise_errors, target=target)
    return MeshSession(shared)


class MeshSession(requests.Session):
    """A requests.Session."""

    def __init__(self, shared: Requests) -> None:
        super().__init__()
        self.target = shared.target
        self._base = shared.origins[0]
        adapter = MeshAdapter(shared)
        for origin in shared.origins:
            self.mount(f"{origin}/", adapter)
        if shared.credentials.ca is not None:
            self.verify = str(shared.credentials.ca)
        if shared.credentials.cert is not None:
            self.cert = (str(shared.credentials.cert), str(shared.credentials.key))

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; a `url` that begins with "/" is a path at any of the addresses."""
        text = url.decode() if isinstance(url, bytes) else url
        return super().request(method, f"{self._base}{text}" if text.startswith("/") else text, *args, **kwargs)


class MeshAdapter(HTTPAdapter):
    """Sends what is mounted on it to the addresses in turn."""

    def __init__(self, shared: Requests) -> None:
        super().__init__(pool_connections=len(shared.origins), pool_maxsize=POOL_SIZE)
        self._shared = shared

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the answer. Raises MeshClientError."""
        target = self._shared.target
        given = timeout[1] if isinstance(timeout, tuple) else timeout
        course = target.course(timeout_s=target.timeout_s(given), idempotent=idempotent(request.method))
        course.spent = not isinstance(request.body, bytes | str | None)
        request_id = target.request_id()
        more = {"stream": stream, "verify": verify, "cert": cert, "proxies": proxies}
        failed: MeshClientError | None = None

        def attempt(seconds: float | None) -> requests.Response:
            nonlocal failed
            if failed is not None and failed.response is not None:
                failed.response.close()
            try:
                return self._anywhere(request, seconds, request_id, more)
            except MeshClientError as error:
                failed = error
                raise

        try:
            return repeat(target, course, attempt, request_id=request_id)
        except MeshClientError as error:
            if error.response is None:
                raise
            if not self._shared.raise_errors:
                return error.response  # type: ignore[no-any-return]
            error.response.close()
            raise

    def _anywhere(
        self, request: requests.PreparedRequest, seconds: float | None, request_id: str, more: dict[str, Any]
    ) -> requests.Response:
        """Make an attempt at the first address that takes the connection. Raises MeshClientError."""
        shared = self._shared
        timeout: Any = (shared.connect_timeout_s(seconds), seconds)
        ends = None if seconds is None else shared.target.clock.monotonic() + seconds
        refused: list[str] = []
        cause: Exception | None = None
        for origin in shared.order():
            sent = request.copy()
            sent.url = f"{origin}{request.path_url}"
            shared.complete(sent.headers, seconds, request_id)
            try:
                response = super().send(sent, timeout=timeout, **more)
                shared.answered(origin)
                if not more["stream"]:
                    self._read(response, ends)
                return self._judged(response, stream=more["stream"])
            except _Late:
                raise timed_out(seconds) from None
            except requests.RequestException as error:
                if not _never_sent(error):
                    raise _error(error, seconds) from error
                shared.refused(origin)
                refused.append(f"{origin}: {_why(error)}")
                cause = error
        raise answers.not_connected(f"no connection: {'; '.join(refused)}") from cause

    def _read(self, response: requests.Response, ends: float | None) -> None:
        """Read all of an answer. The time is looked at after each part; requests waits for each as long as for all."""
        parts = []
        try:
            for part in response.iter_content(PART_BYTES):
                parts.append(part)
                if ends is not None and self._shared.target.clock.monotonic() >= ends:
                    raise _Late
        except BaseException:
            response.close()
            raise
        response._content = b"".join(parts)

    def _judged(self, response: requests.Response, *, stream: bool) -> requests.Response:
        """Return an answer that is a success, all of it unless it is streamed. Raises MeshClientError."""
        failed = response.status_code >= FAILED_FROM
        body = response.content if not stream or (failed and is_small(response.headers)) else b""
        if not failed:
            return response
        error = self._shared.error(response.status_code, response.headers, body)
        error.response = response
        raise error


class _Late(Exception):
    """A part of an answer came when its time was over."""


def _never_sent(error: requests.RequestException) -> bool:
    """Whether no connection stood, so that nothing was sent."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectionError) and isinstance(reason, NewConnectionError)


def _why(error: requests.RequestException) -> str:
    """Return the innermost words of an error, which requests and urllib3 wrap several times."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(reason or error).rpartition(": ")[2]


def _error(error: requests.RequestException, seconds: float | None) -> Exception:
    if isinstance(error, requests.Timeout):
        return timed_out(seconds)
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return answers.broken(f"the connection broke: {_why(error)}")
    return error
