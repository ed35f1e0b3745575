"""What a config file says, as values. Field names are those of the message mesh.v1.Config.

Owns the dataclasses only; those of an application are in `model`. Pure. Called by everything that reads or writes
config files.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model import ApplicationConfig, Cors


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options of the HTTP listener; None: not set."""

    host: str | None = None
    port: int | None = None
    request_timeout_s: float | None = None
    cors: Cors | None = None


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """Options of the gRPC listener; None: not set."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """All that a config file says."""

    http_options: HttpOptions | None = None
    grpc_options: GrpcOptions | None = None
    applications: tuple[ApplicationConfig, ...] = ()
