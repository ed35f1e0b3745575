"""Logs, metrics and probes: what every process tells the people who run it.

Owns the log format, all metric names and the admin listener (/metrics, /livez, /readyz). Knows nothing of
roles: they count and log through it. Nothing here is called per request except bound counters.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector

from mesh import access_log
from mesh.access_log import AccessLog
from mesh.errors import Conflict
from mesh.settings import LogSettings

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DEPLOYMENT = ("application", "deployment")


class RequestTally:
    """Requests that a gateway answered, as plain numbers: one counter and one histogram for a quarter of the price.

    Written by the event loop only; the admin listener's threads read it.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str, str], int] = {}
        """By protocol, route, method and code."""
        self.times: dict[tuple[str, str], list[float]] = {}
        """By protocol and route: the count of each bucket of SECONDS, of what is beyond, and the sum of seconds."""

    def cell(self, protocol: str, route: str) -> list[float]:
        """Return the cell of `times` to add to."""
        return self.times.setdefault((protocol, route), [0.0] * (len(SECONDS) + 2))

    def describe(self) -> list[Metric]:
        """Nothing is known before the first request."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield both metrics for the Prometheus exposition."""
        labels = ("protocol", "route", "method", "code")
        counter = CounterMetricFamily("mesh_requests", "Requests answered by the gateway.", labels=labels)
        for values, count in list(self.counts.items()):
            counter.add_metric(values, count)
        yield counter
        text = "Time from head received to answer complete, at the gateway."
        histogram = HistogramMetricFamily("mesh_request_duration_seconds", text, labels=labels[:2])
        for route, cell in list(self.times.items()):
            *counts, total = list(cell)
            bounds = [*map(str, SECONDS), "+Inf"]
            histogram.add_metric(route, list(zip(bounds, accumulate(counts), strict=True)), total)
        yield histogram


class ReplicaTally:
    """Replicas of each deployment as the leader sees them; replaced as a whole, so that no scrape sees half of it."""

    def __init__(self) -> None:
        self.counts: Mapping[tuple[str, str, str], int] = {}
        """By application, deployment and state: "target" (asked for) or "ready". Empty while this process leads not."""

    def describe(self) -> list[Metric]:
        """Nothing is known before the first look."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield the metric for the Prometheus exposition."""
        text = "Replicas as the leading control plane sees them: asked for, and ready."
        gauge = GaugeMetricFamily("mesh_deployment_replicas", text, labels=(*_DEPLOYMENT, "state"))
        for values, count in self.counts.items():
            gauge.add_metric(values, count)
        yield gauge


REQUESTS = RequestTally()
REGISTRY.register(REQUESTS)
DEPLOYMENT_REPLICAS = ReplicaTally()
REGISTRY.register(DEPLOYMENT_REPLICAS)
IN_FLIGHT = Gauge("mesh_requests_in_flight", "Requests dispatched and not done.", _DEPLOYMENT, registry=REGISTRY)
QUEUED = Gauge("mesh_requests_queued", "Requests waiting for a free slot.", _DEPLOYMENT, registry=REGISTRY)
SHED = Counter(
    "mesh_requests_shed", "Requests refused because a limit was reached.", (*_DEPLOYMENT, "reason"), registry=REGISTRY
)
REPEATED = Counter(
    "mesh_requests_repeated", "Requests sent to another replica, by cause.", (*_DEPLOYMENT, "cause"), registry=REGISTRY
)
SNAPSHOT_GENERATION = Gauge("mesh_snapshot_generation", "Number of the snapshot served from.", registry=REGISTRY)
REPLICA_STARTS = Counter("mesh_replica_starts", "Replica processes started.", _DEPLOYMENT, registry=REGISTRY)
REPLICA_CRASHES = Counter(
    "mesh_replica_crashes", "Replica processes that ended unasked.", _DEPLOYMENT, registry=REGISTRY
)
REPLICA_REQUESTS = Counter(
    "mesh_replica_requests", "Calls a replica ended, by outcome.", (*_DEPLOYMENT, "outcome"), registry=REGISTRY
)
REPLICA_ONGOING = Gauge("mesh_replica_ongoing_requests", "Slots taken in this replica.", _DEPLOYMENT, registry=REGISTRY)
_FUNCTION = (*_DEPLOYMENT, "function")
BATCH_SIZE = Histogram(
    "mesh_batch_size", "Items in a batch.", _FUNCTION, registry=REGISTRY, buckets=[2**i for i in range(11)]
)
BATCH_WAIT = Histogram(
    "mesh_batch_wait_seconds", "Time a batch's first item waited.", _FUNCTION, registry=REGISTRY, buckets=SECONDS
)
BATCH_SECONDS = Histogram(
    "mesh_batch_duration_seconds", "Time a batch ran.", _FUNCTION, registry=REGISTRY, buckets=SECONDS
)
BATCHES_RUNNING = Gauge("mesh_batches_running", "Batches that run.", _FUNCTION, registry=REGISTRY)
MODELS_LOADED = Gauge("mesh_models_loaded", "Models that multiplexed loaders hold.", _DEPLOYMENT, registry=REGISTRY)
MODEL_LOADS = Counter("mesh_model_loads", "Models loaded, by outcome.", (*_DEPLOYMENT, "outcome"), registry=REGISTRY)
MODEL_UNLOADS = Counter("mesh_model_unloads", "Models unloaded.", _DEPLOYMENT, registry=REGISTRY)
MODEL_LOAD_SECONDS = Histogram(
    "mesh_model_load_seconds", "Time a load took.", _DEPLOYMENT, registry=REGISTRY, buckets=SECONDS
)
MODEL_REQUESTS = Counter(
    "mesh_model_requests", "Models asked for, by whether they were loaded.", (*_DEPLOYMENT, "result"), registry=REGISTRY
)
WORKERS = Gauge("mesh_workers", "Workers with a session.", registry=REGISTRY)
LEADER = Gauge("mesh_leader", "1 while this control plane leads.", registry=REGISTRY)
RECONCILES = Counter("mesh_reconciles", "Passes of the reconcile loop.", ("outcome",), registry=REGISTRY)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


def configure_logs(role: str, settings: LogSettings, context: Callable[[], Mapping[str, str]] | None = None) -> None:
    """Send all logs of this process to stderr, in the format that `settings` asks for.

    `context` is asked, where a record is made, for fields that it is to have beside its own.
    """
    handler = logging.StreamHandler(sys.stderr)
    if context is not None:
        handler.addFilter(_with(context))
    tty = sys.stderr.isatty()
    as_text = settings.format == "text" or (settings.format == "auto" and tty)
    handler.setFormatter(TextFormatter(role, colour=tty) if as_text else JsonFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for noisy in ("asyncio", "_granian", "granian"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # It warns of every stream that a server's stop ends, which is what a stop is for.
    logging.getLogger("grpc").setLevel(max(logging.ERROR, root.level))
    access_log.current = AccessLog(handler, role, as_json=not as_text) if settings.access else None


def _with(context: Callable[[], Mapping[str, str]]) -> Callable[[logging.LogRecord], bool]:
    def add(record: logging.LogRecord) -> bool:
        for name, value in context().items():
            vars(record).setdefault(name, value)
        return True

    return add


class TextFormatter(logging.Formatter):
    """One line for people: time, level, role, message, key=value."""

    def __init__(self, role: str, *, colour: bool) -> None:
        super().__init__()
        self._role = role
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={_word(value)}" for key, value in _extra(record))
        line = f"{at} {record.levelname:<7} {self._role}: {record.getMessage()}{fields}"
        if self._colour and record.levelname in _COLOURS:
            line = f"{_COLOURS[record.levelname]}{line}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_extra(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _extra(record: logging.LogRecord) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in vars(record).items() if key not in _STANDARD)


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text


class LineLimit:
    """At most `lines_max` log lines a second; counts those left out. The caller passes the time."""

    def __init__(self, lines_max: int = 10) -> None:
        self._lines_max = lines_max
        self._second = -1
        self._lines = 0
        self._left_out = 0

    def take(self, now: float) -> int | None:
        """Return None if the line is to be left out, else how many were left out since the last one."""
        if (second := int(now)) != self._second:
            self._second, self._lines = second, 0
        if self._lines >= self._lines_max:
            self._left_out += 1
            return None
        self._lines += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


Check = Callable[[], str]
"""Returns "" when all is well, else the reason why not. Called from the admin listener's threads."""


def own_metrics() -> bytes:
    """Return the metrics of this process as a page of Prometheus text."""
    return generate_latest(REGISTRY)


class AdminListener:
    """Serves /metrics, /livez and /readyz from threads of its own, so that a busy loop still answers."""

    def __init__(
        self, host: str, port: int, ready: Mapping[str, Check], metrics: Callable[[], bytes] = own_metrics
    ) -> None:
        """`metrics` returns a page of Prometheus text."""
        self._ready = dict(ready)
        self._metrics = metrics
        self._live: dict[str, Check] = {}
        host = host.strip("[]")
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, self._answer, kind, _QuietHandler)
        except OSError as error:
            hint = "choose another with --admin-port (0: a free one)"
            raise Conflict(f"admin listener cannot bind {host}:{port}: {error.strerror}", hint=hint) from error
        self.address = f"[{host}]:{self._server.server_port}" if ":" in host else f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(1.0,), name="admin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
            return [self._metrics()]
        checks = {"/livez": self._live, "/readyz": self._ready}.get(path)
        if checks is None:
            start_response("404 Not Found", [("Content-Type", "application/json")])
            return [b'{"paths": ["/metrics", "/livez", "/readyz"]}\n']
        reasons = {name: reason for name, check in checks.items() if (reason := check())}
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "not ready" if reasons else "ok", "reasons": reasons}).encode() + b"\n"]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # WSGIServer looks the host's name up in DNS here, which can hang; the name is not needed.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Probes are not logged."""
