"""User code for the tests of the data path; copied into the working directory of a replica.

It tells what happens by lines in the file `events` and waits for files named `open-…`, both in its working directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

import mesh

CHUNK = b"0123456789abcdef" * 4096
LARGE = 400_000


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


def is_open(gate: str) -> bool:
    return not gate or os.path.exists(f"open-{gate}")


class Running:
    """Counts who runs and notes each new maximum."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            if self.now > self.most:
                self.most = self.now
                note(f"most {self.most}")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


class AsyncGated:
    def __init__(self) -> None:
        self.running = Running()

    async def __call__(self, request: Request) -> Any:
        number, gate = request.query_params.get("id", ""), request.query_params.get("gate", "")
        with self.running:
            note(f"start {number}")
            try:
                while not is_open(gate):
                    await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                note(f"cancelled {number}")
                raise
            note(f"end {number}")
            return {"id": number, "pid": os.getpid()}


class SyncGated:
    def __init__(self) -> None:
        self.running = Running()

    def __call__(self, request: Request) -> Any:
        number, gate = request.query_params.get("id", ""), request.query_params.get("gate", "")
        with self.running:
            note(f"start {number}")
            while not is_open(gate):
                time.sleep(0.002)
            note(f"end {number}")
            return {"id": number, "pid": os.getpid()}


class Brief:
    """Takes a moment, so that callers meet."""

    def __init__(self) -> None:
        self.running = Running()

    async def __call__(self, request: Request) -> str:
        with self.running:
            for _ in range(3):
                await asyncio.sleep(0)
            return "done"


class Broken(Response):
    """A response with a way of its own to send itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 203, "headers": [(b"x-own", b"yes")]})
        await send({"type": "http.response.body", "body": b"own way"})


class AsyncKinds:
    """Answers in every way a handler can; the last segment of the path chooses."""

    async def __call__(self, request: Request) -> Any:
        return await getattr(self, request.scope["path"].rpartition("/")[2].replace("-", "_"))(request)

    async def text(self, request: Request) -> Any:
        return "héllo"

    async def raw(self, request: Request) -> Any:
        return b"\x00\xff"

    async def nothing(self, request: Request) -> Any:
        return None

    async def mapping(self, request: Request) -> Any:
        return {"a": [1, None, "ü"]}

    async def sequence(self, request: Request) -> Any:
        return [1, 2]

    async def thing(self, request: Request) -> Any:
        return object()

    async def unserialisable(self, request: Request) -> Any:
        return {"a": object()}

    async def large(self, request: Request) -> Any:
        return {"text": "x" * LARGE}

    async def echo(self, request: Request) -> Any:
        return Response(await request.body(), media_type="application/x-echo")

    async def mirror(self, request: Request) -> Any:
        return StreamingResponse(request.stream())

    async def digest(self, request: Request) -> Any:
        size, digest = 0, hashlib.sha256()
        async for chunk in request.stream():
            size += len(chunk)
            digest.update(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    async def ignore_body(self, request: Request) -> Any:
        return "not read"

    async def seen(self, request: Request) -> Any:
        scope = request.scope
        return {
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            **{key: scope[key] for key in ("method", "path", "root_path", "scheme", "http_version", "client")},
            "raw_path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
        }

    async def hop(self, request: Request) -> Any:
        headers = {"keep-alive": "timeout=5", "x-kept": "yes", "x-request-id": "mine", "x-private": "1"}
        answer = PlainTextResponse("ok", headers=headers)
        answer.raw_headers += [(b"Connection", b"X-Private"), (b"Transfer-Encoding", b"chunked")]
        return answer

    async def keep(self, request: Request) -> Any:
        """Do with a body what must not be done with half of one."""
        body = await request.body()
        note(f"kept {len(body)}")
        return {"bytes": len(body)}

    async def status(self, request: Request) -> Any:
        return Response(b"a body", status_code=int(request.query_params["code"]))

    async def wrong_length(self, request: Request) -> Any:
        """Say that the ten bytes of the body are as many as the query says."""

        async def chunks() -> AsyncIterator[bytes]:
            yield b"01234"
            await asyncio.sleep(0.01)
            yield b"56789"

        answer = StreamingResponse(chunks()) if "stream" in request.query_params else Response(b"0123456789")
        lengths = request.query_params.getlist("length")
        answer.raw_headers[:] = [(b"content-length", length.encode()) for length in lengths]
        return answer

    async def download(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(int(request.query_params["chunks"])):
                yield CHUNK

        return StreamingResponse(chunks(), media_type="application/octet-stream")

    async def endless(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            note("endless start")
            try:
                while True:
                    yield CHUNK
                    await asyncio.sleep(0)
            finally:
                note("endless stop")

        return chunks()

    async def drip(self, request: Request) -> Any:
        """Send one chunk, then none until the client leaves."""

        async def chunks() -> AsyncIterator[str]:
            note("drip start")
            try:
                yield "first"
                await asyncio.Event().wait()
            finally:
                note("drip stop")

        return chunks()

    async def words(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[str]:
            for word in ("one ", "two ", "three"):
                yield word

        return chunks()

    async def empty(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in list[bytes]():
                yield chunk

        return chunks()

    async def numbers(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[Any]:
            yield 3

        return chunks()

    async def fails(self, request: Request) -> Any:
        raise ValueError("the secret reason")

    async def fails_late(self, request: Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            yield CHUNK
            raise ValueError("the secret reason")

        return chunks()

    async def exits(self, request: Request) -> Any:
        sys.exit(3)

    async def stops(self, request: Request) -> Any:
        return next(iter(()))

    async def background(self, request: Request) -> Any:
        await request.body()

        async def later() -> None:
            while not is_open(request.query_params["gate"]):
                await asyncio.sleep(0.002)
            note("background end")

        return JSONResponse({"ok": True}, background=BackgroundTask(later))

    async def own(self, request: Request) -> Any:
        return Broken(b"ignored")

    async def bad_header(self, request: Request) -> Any:
        return Response("x", headers={"x-bad": "a\nb"})

    async def bad_status(self, request: Request) -> Any:
        return Response("x", status_code=1234)

    async def teapot(self, request: Request) -> Any:
        return Response("short and stout", status_code=418)

    async def die(self, request: Request) -> Any:
        note("died")
        os.kill(os.getpid(), signal.SIGKILL)


class SyncKinds:
    """The same for sync code, where it differs."""

    def __call__(self, request: Request) -> Any:
        return getattr(self, request.scope["path"].rpartition("/")[2].replace("-", "_"))()

    def large(self) -> Any:
        return {"text": "x" * LARGE}

    def words(self) -> Iterator[str]:
        yield from ("one ", "two ", "three")

    def streaming(self) -> Any:
        return StreamingResponse(iter([b"one ", b"two ", b"three"]))

    def endless(self) -> Iterator[bytes]:
        note("endless start")
        try:
            while True:
                yield CHUNK
        finally:
            note("endless stop")

    def fails(self) -> Any:
        raise ValueError("the secret reason")

    def exits(self) -> Any:
        sys.exit(3)

    def stops(self) -> Any:
        return next(iter(()))

    def unserialisable(self) -> Any:
        return {"a": object()}

    def thing(self) -> Any:
        return object()

    def nothing(self) -> Any:
        return None


def no_request() -> str:
    return "no request"


async def takes_50_ms() -> dict[str, int]:
    await asyncio.sleep(0.05)
    return {"pid": os.getpid()}


async def fails() -> Response:
    return JSONResponse({}, status_code=500)


declared = mesh.deployment(name="Handler")
async_gated = declared(AsyncGated).bind()
sync_gated = declared(SyncGated).bind()
brief = declared(Brief).bind()
async_kinds = declared(AsyncKinds).bind()
sync_kinds = declared(SyncKinds).bind()
without_request = declared(no_request).bind()
steady = declared(takes_50_ms).bind()
failing = declared(fails).bind()
