"""Reading a stream inside a handler.

Owns the one place that knows how grpc tells the end of a stream. Called by `sessions` and `discovery`.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc

_T = TypeVar("_T")


async def read(context: grpc.aio.ServicerContext[_T, Any], seconds: float | None) -> _T | None:
    """Return the next message, None at the end of the stream. Raises TimeoutError after `seconds` (None: never)."""
    async with asyncio.timeout(seconds):
        message: Any = await context.read()
    return None if message is grpc.aio.EOF else message
