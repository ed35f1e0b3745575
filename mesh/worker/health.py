"""The health of one replica, as its own code sees it: calls `check_health`, if user code has such a method.

Owns that hook and how a failed check is told. A sync hook runs in a thread of its own, never in one that a request
could use; while one hangs, no other is started: who asks meanwhile waits for it. Decides nothing: its worker asks,
counts and replaces. Called by `replica`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mesh.model import Failure
from mesh.reasons import Reason
from mesh.serving.threads import Raised, caught
from mesh.worker.failures import one_line
from mesh.worker.raised import text_of
from mesh.worker.user_code import user_error

_TIMED_OUT = "check_health did not return within {:g} s"


class Health:
    """Checks one instance of user code."""

    def __init__(self, deployment: str, target: Any) -> None:
        """`target` is the instance, or a function, which has no hook and is well as long as its process answers."""
        hook = None if inspect.isroutine(target) else getattr(target, "check_health", None)
        self._hook: Callable[[], Any] | None = hook if callable(hook) else None
        self._async = inspect.iscoroutinefunction(self._hook)
        self._hint = f"mend what {deployment}.check_health finds"
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="check-health")
        self._asked: asyncio.Future[Any] | None = None

    async def check(self) -> Failure | None:
        """Return None if the instance is well, else what its hook raised. Cancelled, it ends an async hook."""
        if self._hook is None:
            return None
        try:
            result = await self._hook() if self._async else await self._in_thread(self._hook)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return self._failure(error)
        except (Exception, SystemExit) as error:
            return self._failure(error)
        if isinstance(result, Raised):
            return self._failure(result.error)
        if result is False:
            return Failure("check_health returned False", hint=self._hint, reason=Reason.HEALTH_CHECK_FAILED)
        return None

    async def check_within(self, timeout_s: float) -> Failure | None:
        """Do as `check` does; a hook that does not return in time is not well."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.check()
        except TimeoutError:
            return Failure(_TIMED_OUT.format(timeout_s), hint=self._hint, reason=Reason.HEALTH_CHECK_FAILED)

    async def _in_thread(self, hook: Callable[[], Any]) -> Any:
        if self._asked is None:
            self._asked = asyncio.get_running_loop().run_in_executor(self._threads, caught, hook)
            self._asked.add_done_callback(self._answered)
        # Shielded: who gives up waiting does not end the thread, and the next one must not start another.
        result = await asyncio.shield(self._asked)
        return await result if inspect.isawaitable(result) else result

    def _answered(self, _: object) -> None:
        self._asked = None

    def _failure(self, error: BaseException) -> Failure:
        try:
            told = user_error(error)
            said, traceback = told.message, told.traceback
        except Exception:  # its __str__ raised
            said, traceback = text_of(error), ""
        text = one_line(f"check_health raised {said}")
        return Failure(text, "import_path", self._hint, traceback, Reason.HEALTH_CHECK_FAILED)
