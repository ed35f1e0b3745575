"""Reading and writing a stream inside a handler.

Owns the one place that knows how grpc tells that the other side has gone, which is no error. Called by `sessions`,
`discovery`, `api` and `forward`.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc

_T = TypeVar("_T")


class PeerGone(Exception):
    """The other side has left the stream."""


async def read(context: grpc.aio.ServicerContext[_T, Any], seconds: float | None) -> _T | None:
    """Return the next message, None at the end of the stream. Raises TimeoutError after `seconds` (None: never)."""
    async with asyncio.timeout(seconds):
        try:
            message: Any = await context.read()
        except grpc.aio.BaseError:
            return None
    return None if message is grpc.aio.EOF else message


async def write(context: grpc.aio.ServicerContext[Any, _T], message: _T, seconds: float | None = None) -> None:
    """Send a message. Raises PeerGone, and TimeoutError if it was not accepted within `seconds` (None: never)."""
    async with asyncio.timeout(seconds):
        try:
            await context.write(message)
        except grpc.aio.BaseError as error:
            raise PeerGone(str(error)) from None
