"""The configuration of an Envoy with its gRPC-JSON transcoder in front of a gRPC server. Pure.

It is static: one loopback listener, one cluster, nothing that costs and is not needed (no access log, no admin
listener, no request ids, no tracing).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.greeter import NAME

_TYPES = "type.googleapis.com/envoy.extensions"


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
