"""Runs methods of a deployment for calls by handles: decodes arguments, calls, and encodes what comes back.

Owns which methods may be called and what a return value means. Knows nothing of slots or of the wire: it gets
`ServedCall`s and ends each exactly once. Called by `replica`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.errors import DecodingFailed, HandleMisused
from mesh.lifecycle import Tasks
from mesh.pipe.flow import CHUNK_BYTES, WHOLE_BYTES
from mesh.pipe.messages import Assembly, BadFraming, pieces, sole
from mesh.pipe.served_call import ServedCall
from mesh.serving import encoding
from mesh.serving.batch import runs_on_loop
from mesh.serving.current_request import Place
from mesh.serving.handle import CALL
from mesh.serving.threads import Raised, Threads, caught, steps_in_thread
from mesh.telemetry import REPLICA_REQUESTS
from mesh.worker import current_call
from mesh.worker.call_errors import RETURNED, YIELDED
from mesh.worker.raised import log_raised

_PLAIN = (type(None), bool, int, float, str, bytes, list, dict, tuple)


class HandleCalls:
    """Calls the methods of `target`, an instance or a function."""

    def __init__(self, place: Place, target: Any, threads: Threads) -> None:
        self._place = place
        self._target = target
        self._methods: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._threads = threads
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()
        labels = (place.application, place.deployment)
        self._ok = REPLICA_REQUESTS.labels(*labels, "ok").inc
        self._error = REPLICA_REQUESTS.labels(*labels, "error").inc
        self._cancelled = REPLICA_REQUESTS.labels(*labels, "cancelled").inc

    def serve(self, call: ServedCall) -> Callable[[], object]:
        """Start `call` and return what cancels it."""
        running = _Running()
        running.task = self._tasks.spawn(self._serve(call, running), name="call")
        return running.cancel

    async def close(self) -> None:
        """Cancel what runs. Threads of sync methods are left to end by themselves."""
        await self._tasks.cancel()

    async def _serve(self, call: ServedCall, running: _Running) -> None:
        current_call.enter(call, self._place)
        try:
            if call.cancelled:  # before its first step
                raise asyncio.CancelledError
            method, is_async = self._methods.get(call.head.method) or self._method(call.head.method)
            whole = sole(call.head.data, encoding.MESSAGE_BYTES_MAX) if call.head.end else None
            args, kwargs = _given(whole if whole is not None else await _message(call))
            if is_async:
                result = method(*args, **kwargs)
                result = result if inspect.isasyncgen(result) else await result
            else:
                result = await self._in_thread(method, args, kwargs, running)
            if call.cancelled:  # and the method took no notice
                raise asyncio.CancelledError
            if (rest := self._answer(call, result)) is not None:
                await rest
            self._ok()
        except BaseException as error:  # none of it may leave the event loop, nor keep the slot
            if call.cancelled or _ends_this(error):
                self._cancelled()
                call.done()
                return
            self._error()
            call.fail(log_raised(call, error, "method"), error)

    def _method(self, name: str) -> tuple[Callable[..., Any], bool]:
        """Return the method to call, and whether it is async. Raises HandleMisused if handles may call none of it."""
        found: Any = self._target if name == CALL else getattr(self._target, name, None)
        if (name.startswith("_") and name != CALL) or not callable(found):
            known = [each for each in dir(self._target) if not each.startswith("_")][:20]
            hint = f"it has {', '.join(known)}" if known else "call it by handle.remote(...)"
            raise HandleMisused(f"deployment {self._place.deployment!r} has no method {name[:60]!r}", hint=hint)
        is_async = runs_on_loop(found)
        of_class = inspect.getattr_static(type(self._target), name, None)
        own = getattr(self._target, "__dict__", ())
        if of_class is not None and not isinstance(of_class, property) and name not in own:
            self._methods[name] = found, is_async  # the same at each call
        return found, is_async

    async def _in_thread(
        self, method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], running: _Running
    ) -> Any:
        work = functools.partial(contextvars.copy_context().run, caught, method, *args, **kwargs)
        future = self._loop.run_in_executor(self._threads, work)
        running.in_thread = True
        try:
            outcome = await future  # never cancelled: the slot stays taken until the thread has returned
        finally:
            running.in_thread = False
        if isinstance(outcome, Raised):
            raise outcome.error
        return await outcome if inspect.isawaitable(outcome) else outcome

    def _answer(self, call: ServedCall, result: Any) -> Coroutine[Any, Any, None] | None:
        """Send what a method returned. Returns what is to be awaited, where it takes waiting."""
        if type(result) not in _PLAIN:
            if inspect.isasyncgen(result):
                return _stream(call, result)
            if inspect.isgenerator(result):
                return _stream(call, steps_in_thread(self._threads, result))
        cut = _encoded(result, "the returned value", WHOLE_BYTES)
        if len(cut) == 1 and call.answer(RETURNED, [], cut[0]):
            return None
        return _send(call, cut)


class _Running:
    """A call that runs. A thread cannot be interrupted: it is cancelled when its thread has returned."""

    __slots__ = ("in_thread", "task")

    def __init__(self) -> None:
        self.in_thread = False
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        if self.task is not None and not self.in_thread:
            self.task.cancel()


def _ends_this(error: BaseException) -> bool:
    """Whether the task itself was cancelled, and not only something that the method waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _message(call: ServedCall) -> bytes | bytearray:
    """Read a call's one message, which did not come with its head. Raises DecodingFailed."""
    assembly, whole = Assembly(encoding.MESSAGE_BYTES_MAX), list[bytes | bytearray]()
    try:
        while data := await call.read():
            whole += assembly.feed(data)
        assembly.end()
    except BadFraming as error:
        raise DecodingFailed(error.message) from None
    if len(whole) != 1:
        raise DecodingFailed(f"{len(whole)} messages came; a call has one")
    return whole[0]


def _given(message: bytes | bytearray) -> tuple[list[Any], dict[str, Any]]:
    """Return a call's arguments. Raises DecodingFailed."""
    given = encoding.decode(message)
    if type(given) is list and len(given) == 2:
        args, kwargs = given
        if type(args) is list and type(kwargs) is dict and all(type(name) is str for name in kwargs):
            return args, kwargs
    raise DecodingFailed("what came is no list of arguments")


async def _send(call: ServedCall, cut: list[bytes]) -> None:
    """Send a value that is too large for one frame."""
    call.start(RETURNED, [])
    for i, piece in enumerate(cut, 1):
        if not await call.write(piece, end=i == len(cut)):
            break
    call.done()


async def _stream(call: ServedCall, items: Any) -> None:
    """Send items as their reader takes them; end the generator as soon as nobody reads."""
    call.start(YIELDED, [])
    try:
        async for item in items:
            for piece in _encoded(item, "the yielded item", CHUNK_BYTES):
                if not await call.write(piece):
                    raise asyncio.CancelledError
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()
    await call.write(b"", end=True)
    call.done()


def _encoded(value: Any, named: str, whole_bytes: int) -> list[bytes]:
    return pieces(encoding.encode(value, named), whole_bytes, CHUNK_BYTES)
