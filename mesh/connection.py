"""Connecting a gRPC channel within a bound, and saying why if it cannot be.

Owns the wait only: channels belong to their callers. gRPC by itself would try on for much longer, or wait in the first
call. Called by every client of the control plane.
"""

from __future__ import annotations

import asyncio

import grpc

from mesh.errors import Unreachable
from mesh.liveness import CONNECT_TIMEOUT_S


async def connect(channel: grpc.aio.Channel, address: str) -> None:
    """Connect, or return at once if it is. Raises Unreachable: nobody listens, or the host or process stands still."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise Unreachable(f"nobody listens at {address}")
                if state is grpc.ChannelConnectivity.SHUTDOWN:
                    raise Unreachable(f"the channel to {address} is closed")
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise Unreachable(f"{address} does not take connections") from None
