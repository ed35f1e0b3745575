"""What one gRPC call is sent with, and its failure as an error of this package.

Owns the mapping between gRPC's objects and plain data. Called by `grpc_channel` and `grpc_aio_channel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh_client import answers
from mesh_client.connecting import runs_twice
from mesh_client.credentials import Credentials
from mesh_client.errors import MeshClientError
from mesh_client.target import Target

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Calls:
    """What the calls of a channel share. `metadata` is sent with each."""

    target: Target
    credentials: Credentials
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def sent_with(self, given: Any, request_id: str) -> list[tuple[str, str | bytes]]:
        """Return the metadata of an attempt: the token is what holds now."""
        sent = [*self.metadata, *(given or ())]
        if all(name != answers.REQUEST_ID for name, _ in sent):
            sent.append((answers.REQUEST_ID, request_id))
        if (authorization := self.credentials.authorization()) is not None:
            sent.append(("authorization", authorization))
        return sent

    def idempotent(self, path: str) -> bool:
        """Whether a method may run twice."""
        return runs_twice(path, self.target.policy)


def error_of(failed: Any) -> MeshClientError:
    """Return the error of a call that failed: a grpc.RpcError which is a grpc.Call, or a grpc.aio.AioRpcError."""
    code = failed.code()
    trailers = {str(name): value for name, value in failed.trailing_metadata() or ()}
    return answers.of_grpc(code.name if code is not None else "UNKNOWN", failed.details() or "", trailers)
