"""A web server on loopback with a certificate of its own authority: files, redirects, and git repositories."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.certificates import Authority

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class WebPlaces:
    """Answers by path. Use as a context manager."""

    directory: Path
    answers: dict[str, Answer | Callable[[], Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.authority = Authority.create(self.directory / "authority")
        certificate, key = self.authority.issue("localhost", "DNS:localhost", "IP:127.0.0.1")
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base(self) -> str:
        return f"https://localhost:{self.port}"

    def put(self, name: str, data: bytes) -> str:
        """Answer with a file. Returns its URL."""
        self.answers[f"/{name}"] = (200, {}, data)
        return f"{self.base}/{name}"

    def redirect(self, name: str, to: str) -> str:
        """Answer with a redirect. Returns its URL."""
        self.answers[f"/{name}"] = (302, {"Location": to}, b"")
        return f"{self.base}/{name}"

    def repository(self, name: str, files: dict[str, str], *, links: dict[str, str] | None = None) -> tuple[str, str]:
        """Serve a git repository with one commit. Returns its URL and the commit."""
        work = self.directory / f"{name}-work"
        work.mkdir()
        for path, text in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text)
        for path, target in (links or {}).items():
            (work / path).symlink_to(target)
        _git(work, "init", "--quiet")
        _git(work, "add", "-A")
        _git(work, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "-m", "one")
        commit = _git(work, "rev-parse", "HEAD").strip()
        bare = self.directory / "repositories" / name
        _git(work, "clone", "--quiet", "--bare", str(work), str(bare))
        _git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
        shutil.rmtree(work)
        return f"{self.base}/git/{name}", commit


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def _handler(places: WebPlaces) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None: ...

        def _answer(self) -> None:
            places.asked.append(self.path)
            if self.path.startswith("/git/"):
                self._git()
                return
            answer = places.answers.get(self.path, (404, {}, b""))
            status, headers, body = answer() if callable(answer) else answer
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _git(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            environment = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(places.directory / "repositories"),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": url.path.removeprefix("/git"),
                "QUERY_STRING": url.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "CONTENT_LENGTH": str(len(body)),
            }
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True, timeout=30
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
