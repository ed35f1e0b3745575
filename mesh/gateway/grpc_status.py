"""How gRPC clients are told of errors, and what a gRPC call is counted and logged with.

Owns status, details and trailers of what mesh itself answers. Used by `grpc_front` and `grpc_services`.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.errors import MeshError, Overloaded
from mesh.gateway import answer
from mesh.pipe.messages import MessageTooLarge

ERROR_DOMAIN = "mesh"
APPLICATION_METADATA = "application"
REQUEST_ID_METADATA = "x-request-id"
MODEL_ID_METADATA = ("x-mesh-model-id", "multiplexed_model_id")
"""Ours, and Ray Serve's."""

log = logging.getLogger("mesh.gateway")


class Told:
    """What is known of a request when it is counted and logged, however far it came."""

    __slots__ = ("code", "request_id", "route")

    def __init__(self) -> None:
        self.request_id = ""
        self.route = ""
        self.code = "OK"
        """Name of the status that user code set."""


def check_message(size: int, bytes_max: int) -> None:
    """Refuse a client's message of more than `bytes_max` bytes. Raises MessageTooLarge."""
    if size > bytes_max:
        hint = "the gateway's flag --message-bytes sets the limit"
        raise MessageTooLarge(f"a message of {size} bytes is larger than the {bytes_max} allowed", hint=hint)


async def refuse(context: Any, error: MeshError, request_id: str) -> NoReturn:
    """End a call with the status, details and trailers that tell of `error`."""
    told = answer.outcome(error)
    code = grpc.StatusCode[told.code]
    detail = answer.detail(error)
    status = Status(code=code.value[0], message=detail)
    status.details.append(
        _packed(ErrorInfo(reason=told.reason, domain=ERROR_DOMAIN, metadata={"request_id": request_id}))
    )
    trailers: list[tuple[str, str | bytes]] = [(REQUEST_ID_METADATA, request_id)]
    if isinstance(error, Overloaded):
        delay_ms = max(1, int(error.retry_after_s * 1000))
        delay = Duration(seconds=delay_ms // 1000, nanos=delay_ms % 1000 * 1_000_000)
        status.details.append(_packed(RetryInfo(retry_delay=delay)))
        trailers.append(("grpc-retry-pushback-ms", answer.pushback(error)))
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    await context.abort(code, detail, tuple(trailers))
    raise AssertionError("abort returned")


def log_failure(error: MeshError, told: Told) -> None:
    """Log an error whose reason clients are not told."""
    if answer.outcome(error).code == "INTERNAL":
        log.error("request failed: %s", error.message, extra={"request_id": told.request_id, "route": told.route})


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def peer_address(peer: str) -> str:
    """Return the address in grpc's "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    _, _, rest = peer.partition(":")
    address = rest.rpartition(":")[0]
    return address.replace("%5B", "").replace("%5D", "")
