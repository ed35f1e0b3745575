"""Servers that refuse as mesh does, each attempt as a script says, for tests of clients; and a clock that stands still.

A script is a function of the attempt's number, from 0, to a word: "ok", "shed" (refused, come back after 50 ms),
"lost" (a replica went away), "never" (refused, do not come back), "hang" (no answer before the client gives up). Over
HTTP also "drip" (an answer that begins, and does not end before that).
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mesh_client.clock import Clock

from mesh import errors
from mesh.gateway.answer import problem

Script = Callable[[int], str]
PUSHBACK_S = 0.05
UNARY, MANY = "/refusing.v1.Service/Unary", "/refusing.v1.Service/Many"
_HANG_S = 20.0


class StillClock(Clock):
    """No time passes, and pauses take none; the middle of every range is drawn."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.paused: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def random(self) -> float:
        return 0.5

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused()

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class _Scripted:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._numbers = itertools.count()
        self.attempts = 0
        self.seen: list[dict[str, str]] = []
        """Metadata or headers of each attempt."""
        self.released = threading.Event()
        """Ends what hangs."""

    def next(self, sent: dict[str, str]) -> str:
        self.seen.append(sent)
        number = next(self._numbers)
        self.attempts = number + 1
        return self._script(number)


class RefusingGrpc(_Scripted):
    """Methods `UNARY` and `MANY` over gRPC; messages are bytes, and the answer is the request."""

    def __init__(self, script: Script, *, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> None:
        super().__init__(script)
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handlers: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Many": grpc.unary_stream_rpc_method_handler(self._many),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("refusing.v1.Service", handlers),))
        host = f"127.0.0.1:{port}"
        bound = self._server.add_secure_port(host, credentials) if credentials else self._server.add_insecure_port(host)
        self.address = f"127.0.0.1:{bound}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.stop(None).wait()

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._act(context)
        return request

    def _many(self, request: bytes, context: Any) -> Any:
        self._act(context)
        for i in range(3):
            yield request + b"%d" % i

    def _act(self, context: Any) -> None:
        match self.next({key: str(value) for key, value in context.invocation_metadata()}):
            case "ok":
                return
            case "hang":
                context.add_callback(self.released.set)
                self.released.wait(_HANG_S)
            case "lost":
                _abort(context, grpc.StatusCode.UNAVAILABLE, "REPLICA_LOST")
            case "shed":
                _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", int(PUSHBACK_S * 1000))
            case "never":
                _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", -1)


def _abort(context: Any, code: grpc.StatusCode, reason: str, pushback_ms: int | None = None) -> None:
    info = AnyMessage()
    info.Pack(ErrorInfo(reason=reason, domain="mesh"))
    status = Status(code=code.value[0], message=reason, details=[info])
    trailers: list[tuple[str, str | bytes]] = [("x-request-id", "told")]
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    if pushback_ms is not None:
        trailers.append(("grpc-retry-pushback-ms", str(pushback_ms)))
    context.set_trailing_metadata(trailers)
    context.abort(code, reason)


class RefusingHttp(_Scripted):
    """Answers every request over HTTP with its body."""

    def __init__(self, script: Script, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(script)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(scripted: RefusingHttp) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            word = scripted.next({k.lower(): v for k, v in self.headers.items()})
            if word == "drip":
                self._drip()
                return
            status, headers, answer = self._act(word, body)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name.decode(), value.decode())
            # Clients that gave up are gone.
            with contextlib.suppress(OSError):
                self.end_headers()
                self.wfile.write(answer)

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.end_headers()
                while not scripted.released.wait(0.01):
                    self.wfile.write(b"1\r\nx\r\n")

        def _act(self, word: str, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
            match word:
                case "shed":
                    return problem(errors.Overloaded("full", retry_after_s=PUSHBACK_S), "told")
                case "lost":
                    return problem(errors.ReplicaLost("lost"), "told")
                case "hang":
                    scripted.released.wait(_HANG_S)
            return 200, [(b"content-length", b"%d" % len(body))], body

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
