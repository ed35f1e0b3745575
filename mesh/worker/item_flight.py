"""One call by handle that brings items: from its frame to each of them.

Owns the reading of items: no faster than they are asked for, so that the one who yields them waits with its reader.
Made by `handles`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from typing import Any

from mesh.pipe.messages import Assembly
from mesh.serving import encoding
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.call_errors import told
from mesh.worker.flight import Flight

_END = object()


class ItemFlight(Flight):
    """A call with `stream=True` (`handle.ItemFlight`)."""

    __slots__ = ("_assembly", "_items", "_reading")

    _assembly: Assembly
    _items: deque[bytes | bytearray]
    _reading: asyncio.Lock | None

    async def next(self) -> Any:
        """Return the next item. Raises StopAsyncIteration."""
        if self._handles.is_here():
            item = await self._next()
        else:
            item = await asyncio.wrap_future(self._next_elsewhere())
        if item is _END:
            raise StopAsyncIteration
        return item

    def wait_next(self) -> Any:
        """Return the next item, in a thread. Raises StopAsyncIteration."""
        if (item := self._next_elsewhere().result()) is _END:
            raise StopAsyncIteration
        return item

    def _begin(self) -> None:
        self._assembly, self._items = Assembly(encoding.MESSAGE_BYTES_MAX), deque()
        self._reading = asyncio.Lock()
        super()._begin()

    def _take_head(self, head: pb.Head) -> None:
        self._unlimited()  # from now on only its progress is bounded, by whoever waits for that
        self._outcome.set_result(None)

    async def _next(self) -> Any:
        """Return the next item, or _END."""
        try:
            await self._outcome
        except asyncio.CancelledError:
            self._cancel()
            raise
        assert self._reading is not None
        async with self._reading:
            try:
                return await self._read_next()
            except asyncio.CancelledError:
                self._cancel()
                raise
            except Exception as error:
                if self._cancelled:
                    raise asyncio.CancelledError from None
                cause = told(error, self._callee)
                self.fail(cause)
                raise cause from None

    async def _read_next(self) -> Any:
        call = self._call
        assert call is not None
        while not self._items:
            if self._is_over:
                return _END
            if data := await call.read():
                self._items.extend(self._assembly.feed(data))
                continue
            self._assembly.end()
            self._check_status(call)
            self._finish()
        return encoding.decode(self._items.popleft())

    def _next_elsewhere(self) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(self._next(), self._handles.loop)
