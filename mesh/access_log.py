"""The access log: a line for each request, gathered and written many at once.

Owns the form of the lines and when they are written. By way of `logging`, a line costs a gateway half of what its
request does: a record, a search for who made it, a system call. Set up by `telemetry`, called by `traffic`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import NamedTuple, TextIO

LINES_MAX = 256
"""So many are written at once."""
GATHER_S = 0.05
"""Seconds for which a line waits at most. A process that is killed loses them."""

_LOGGER = "mesh.access"


class Answered(NamedTuple):
    """One request that was answered. `method` and `path` are printable."""

    at: float
    """When, in Unix time."""
    protocol: str
    method: str
    path: str
    code: object
    """HTTP status, or name of the gRPC code."""
    took_ms: float
    request_id: str

    @property
    def message(self) -> str:
        """What the line says."""
        return f"{self.method} {self.path} {self.code} {self.took_ms:.1f} ms"


class AccessLog:
    """Lines in the form of a log handler, and through it. Used in the event loop."""

    def __init__(self, handler: logging.StreamHandler[TextIO], role: str, *, as_json: bool) -> None:
        """`handler` formats lines that are not JSON."""
        self._handler = handler
        self._role = role
        self._as_json = as_json
        self._gathered: list[Answered] = []
        self._second = -1
        self._date = ""
        atexit.register(self.flush)

    def add(self, answered: Answered) -> None:
        """Log a request, soon."""
        self._gathered.append(answered)
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self.flush)
        elif len(self._gathered) >= LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        lines = "\n".join(map(self._json if self._as_json else self._text, gathered))
        handler = self._handler
        handler.acquire()
        try:
            handler.stream.write(f"{lines}\n")
            handler.flush()
        except (OSError, ValueError):
            return  # nobody reads it any more; `logging` says nothing of that either
        finally:
            handler.release()

    def _json(self, each: Answered) -> str:
        """Return a line as `telemetry.JsonFormatter` does, for a tenth of the price."""
        second, microsecond = divmod(round(each.at * 1e6), 1_000_000)
        if second != self._second:
            self._second, self._date = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return (
            f'{{"time": "{self._date}.{microsecond // 1000:03d}+00:00", "level": "INFO", '
            f'"role": "{self._role}", "logger": "{_LOGGER}", "message": {encode_basestring(each.message)}, '
            f'"protocol": "{each.protocol}", "request_id": {encode_basestring(each.request_id)}}}'
        )

    def _text(self, each: Answered) -> str:
        made = {"name": _LOGGER, "levelname": "INFO", "levelno": logging.INFO, "msg": each.message, "created": each.at}
        fields = {"protocol": each.protocol, "request_id": each.request_id}
        return self._handler.format(logging.makeLogRecord(made | fields))


current: AccessLog | None = None
"""That of this process; None: requests are not logged."""
