"""A real browser for tests: headless Chromium, driven over its DevTools protocol.

One page at a time. Every wait has a deadline; leaving it kills the browser's process group.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

START_SECONDS = 40.0
CALL_SECONDS = 30.0
_LOADED = "new Promise(go => document.readyState == 'loading' ? addEventListener('DOMContentLoaded', go) : go())"
_LISTENING = re.compile(r"DevTools listening on (ws://\S+)")


class Browser:
    """Chromium with an empty profile in `directory`. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._profile = directory / "chromium"
        self._process: subprocess.Popen[str] | None = None
        self._socket: ClientConnection | None = None
        self._stack = contextlib.ExitStack()
        self._session = ""
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        program = shutil.which("chromium")
        assert program, "Debian's package chromium is needed: `make test-all` installs it"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--remote-debugging-port=0", f"--user-data-dir={self._profile}", "--no-proxy-server"]
        self._process = subprocess.Popen(
            [program, *arguments, "about:blank"], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self._socket = self._stack.enter_context(connect(self._address(), proxy=None, max_size=None))
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._call("Page.enable")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._kill()

    def open(self, url: str) -> None:
        """Go to a page and wait until its document is there. What it loads from elsewhere may be missing."""
        said = self._call("Page.navigate", url=url)
        assert "errorText" not in said, said
        self.run(_LOADED)

    def run(self, script: str) -> Any:
        """Run an expression in the page and return its value; a promise's, once it has one."""
        said = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> Any:
        assert self._socket is not None
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while True:
            said = json.loads(self._socket.recv(timeout=CALL_SECONDS))
            if said.get("id") == number:
                assert "error" not in said, (method, said["error"])
                return said["result"]

    def _address(self) -> str:
        """Return where the browser listens; it says so when it is up."""
        assert self._process is not None and self._process.stderr is not None
        said: list[str] = []
        timer = threading.Timer(START_SECONDS, self._kill)
        timer.start()
        try:
            for line in self._process.stderr:
                said.append(line)
                if found := _LISTENING.search(line):
                    # It goes on talking: nobody may let its pipe run full.
                    threading.Thread(target=self._process.stderr.read, daemon=True).start()
                    return found[1]
        finally:
            timer.cancel()
        raise AssertionError("Chromium did not start:\n" + "".join(said[-20:]))

    def _kill(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
