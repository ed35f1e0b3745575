"""What a worker asks its replicas over gRPC: are you well, and take these settings.

Owns one channel to one replica process. Decides nothing. Called by the supervisor.
"""

from __future__ import annotations

import grpc

from mesh import wire
from mesh.connection import channel
from mesh.credentials import Credentials
from mesh.errors import Unreachable
from mesh.liveness import CONNECT_TIMEOUT_S, pings
from mesh.model import DeploymentSettings, Failure
from mesh.reasons import Reason
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1 import deployment_pb2, replica_service_pb2, replica_service_pb2_grpc

_CONFIGURE_TIMEOUT_S = 30.0
_HINT = "look for what blocks its event loop, or its check_health; or allow more with health_check_timeout_s"
_OPTIONS = (
    *pings(),
    # The time for a connection: a process that stands still takes none, and says so by that.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)


class ReplicaClient:
    """The worker's channel to one replica process."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._channel = channel(address, credentials, _OPTIONS)
        self._replica = replica_service_pb2_grpc.ReplicaServiceStub(self._channel)

    async def check(self, timeout_s: float) -> Failure | None:
        """Return None if the replica says within `timeout_s` that it is well, else what is wrong."""
        try:
            answer = await self._replica.CheckHealth(replica_service_pb2.CheckHealthRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            text = f"no answer within {timeout_s:g} s" if late else _told(error)
            return Failure(text, hint=_HINT, reason=Reason.HEALTH_CHECK_FAILED)
        return wire.from_proto(answer.failure, Failure) if answer.HasField("failure") else None

    async def configure(self, settings: DeploymentSettings) -> Failure | None:
        """Put settings in force; returns why user code refused them, if it did, or that it did not end.

        Raises Unreachable if the replica cannot be asked.
        """
        message = wire.to_proto(settings, deployment_pb2.DeploymentSettings)
        request = replica_service_pb2.ConfigureRequest(settings=message)
        try:
            answer = await self._replica.Configure(request, timeout=_CONFIGURE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                text = f"reconfigure did not return within {_CONFIGURE_TIMEOUT_S:g} s"
                return Failure(text, "import_path", "mend user_config, or reconfigure")
            raise Unreachable(f"the replica did not take its new settings: {_told(error)}") from error
        return wire.from_proto(answer.failure, Failure) if answer.HasField("failure") else None

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _told(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
