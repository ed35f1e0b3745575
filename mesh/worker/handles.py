"""The calls that a process makes by handles: where each deployment is, and who is sent what.

Owns one dispatcher for each deployment that is called, with the same rule of admission as at a gateway, and the stream
of snapshots that says where replicas are. Until the first has come, calls wait. Made by `replica`; called by
`serving/handle` in any thread, and by `flight` in the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import EncodingFailed, HandleMisused
from mesh.lifecycle import Tasks
from mesh.model import Generation
from mesh.pipe.discovery import Discovery
from mesh.pipe.dispatch import Dispatcher, Limits
from mesh.pipe.flow import CHUNK_BYTES, WHOLE_BYTES
from mesh.pipe.messages import pieces
from mesh.serving import encoding, handle
from mesh.serving.graph import TooDeep, found, replaced
from mesh.serving.handle import Callee, DeploymentResponse, outcome_of
from mesh.v1 import discovery_service_pb2 as pb
from mesh.worker import current_call
from mesh.worker.deadlines import Deadlines
from mesh.worker.flight import Flight, Origin
from mesh.worker.item_flight import ItemFlight

QUEUED_MAX_AT_FIRST = 100
"""Calls that may wait for one deployment while it is not known yet what its limit is."""
DEPLOYMENTS_MAX = 1000
"""Deployments that one process may call."""

log = logging.getLogger("mesh.handles")


@dataclass(slots=True)
class Reached:
    """One deployment that is called."""

    dispatcher: Dispatcher
    timeout_s: float = 0.0
    """Its request_timeout_s; 0: none."""


class Handles:
    """Makes the calls of this process (`handle.Caller`)."""

    def __init__(
        self, caller_id: str, control: tuple[str, ...], credentials: Credentials, clock: Clock, application: str = ""
    ) -> None:
        """`control` are the addresses of control planes; without any, calls wait for ever.

        `application` is what this process is a replica of, if it is one.
        """
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.clock = clock
        self.tasks = Tasks()
        self.deadlines = Deadlines(self.loop)
        self._caller_id = caller_id
        self._application = application
        self._control = control
        self._credentials = credentials
        self._reached: dict[tuple[str, str], Reached] = {}
        self._generation = Generation()
        self._last: pb.Snapshot | None = None
        self._discovery = Discovery(control, self._says, credentials, clock, self.apply)
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    def is_here(self) -> bool:
        """Whether this is the thread of the event loop. (Asking for the running loop costs a system call.)"""
        return threading.get_ident() == self._thread

    def install(self) -> None:
        """Let the handles of this process call by this."""
        handle.set_caller(self)

    def call(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flight:
        """Start a call, from any thread. Raises EncodingFailed if an argument cannot travel."""
        served, request_id, deadline = current_call.served()
        origin = Origin(served, request_id or self.clock.request_id(), deadline)
        flight = (ItemFlight if callee.stream else Flight)(self, callee, origin)
        if not any(map(_is_response, args)) and not (kwargs and any(map(_is_response, kwargs.values()))):
            try:
                body = _encoded(args, kwargs)
            except EncodingFailed:
                if not _has_responses((args, kwargs)):
                    raise
            else:
                self._in_loop(flight.start, body)
                return flight
        self._in_loop(self._start_later, flight, args, kwargs)
        return flight

    def want(self, application: str, deployment: str) -> None:
        """Learn where a deployment is, from any thread."""
        self._in_loop(self.reach, application, deployment)

    def reach(self, application: str, deployment: str) -> Reached:
        """Return how a deployment is reached, in the loop."""
        key = (application, deployment)
        if (reached := self._reached.get(key)) is None:
            if len(self._reached) >= DEPLOYMENTS_MAX:
                return self._beyond
            limits = Limits(1, QUEUED_MAX_AT_FIRST)
            reached = Reached(Dispatcher(application, deployment, limits, self._credentials, self.clock))
            news = application not in {name for name, _ in self._reached}
            self._reached[key] = reached
            if self._last is not None:
                self._put(key, reached, self._last)
            self._follow(again=news)
        return reached

    def apply(self, snapshot: pb.Snapshot) -> bool:
        """Call by `snapshot`. False, and nothing is changed, if it is older than what is called by."""
        generation = Generation(snapshot.generation.epoch, snapshot.generation.number)
        if generation < self._generation:
            return False
        self._generation, self._last = generation, snapshot
        for key, reached in self._reached.items():
            self._put(key, reached, snapshot)
        return True

    async def close(self) -> None:
        """End all calls."""
        self._closed = True
        await self.tasks.cancel()
        for reached in self._reached.values():
            await reached.dispatcher.close("this process is shutting down")

    @functools.cached_property
    def _beyond(self) -> Reached:
        """What stands for all deployments that are too many: whoever can make names must not make metrics of them."""
        dispatcher = Dispatcher("", "", Limits(1, 0), self._credentials, self.clock)
        dispatcher.retire(f"this process calls more than {DEPLOYMENTS_MAX} deployments")
        return Reached(dispatcher)

    def _says(self) -> pb.StreamSnapshotsRequest:
        names = sorted({application for application, _ in self._reached})
        return pb.StreamSnapshotsRequest(caller_id=self._caller_id, applications=names)

    def _follow(self, *, again: bool) -> None:
        if not self._control or self._closed:
            return
        if self._following is None:
            self._following = self.tasks.spawn(self._discovery.run(), name="discovery")
        elif again:
            self.tasks.spawn(self._discovery.say_again(), name="discovery-again")

    def _put(self, key: tuple[str, str], reached: Reached, snapshot: pb.Snapshot) -> None:
        name, deployment = key
        if name not in snapshot.asked:  # it was asked for since then
            return
        application = next((each for each in snapshot.applications if each.name == name), None)
        if application is None:
            self._fail(key, reached, f"there is no application {name!r}")
            return
        routed = next((each for each in application.deployments if each.name == deployment), None)
        if routed is None:
            if application.deployments:  # it is built
                self._fail(key, reached, f"application {name!r} has no deployment {deployment!r}")
            elif application.failure:
                self._fail(key, reached, application.failure)
            return
        reached.timeout_s = routed.request_timeout_s
        if application.failure and not routed.endpoints:
            self._fail(key, reached, application.failure)
            return
        limits = Limits(routed.max_ongoing_requests, routed.max_queued_requests, application.failure)
        reached.dispatcher.update(limits, ((each.replica_id, each.address) for each in routed.endpoints))

    def _fail(self, key: tuple[str, str], reached: Reached, why: str) -> None:
        """Let calls to a deployment fail, for it has no replicas any more.

        Those of the own application run on for as long as this replica may call them, if it is to stop as they are.
        """
        if key[0] == self._application:
            reached.dispatcher.run_out(why)
        else:
            reached.dispatcher.update(Limits(1, 0, why), ())

    def _in_loop(self, work: Callable[..., object], *args: Any) -> None:
        if self.is_here():
            work(*args)
        else:
            self.loop.call_soon_threadsafe(work, *args)

    def _start_later(self, flight: Flight, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        task = self.tasks.spawn(self._start_resolved(flight, args, kwargs), name="arguments")
        flight.preparing(task)

    async def _start_resolved(self, flight: Flight, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a call whose arguments are answers of others, once these are there."""
        try:
            responses = list(found((args, kwargs), DeploymentResponse))
            answers = {id(response): await _answer(response) for response in responses}
            args, kwargs = replaced((args, kwargs), DeploymentResponse, lambda each: answers[id(each)])
            body = _encoded(args, kwargs)
        except asyncio.CancelledError:
            flight.cancel()  # it was, or this process ends
            raise
        except TooDeep as error:
            flight.fail(EncodingFailed(f"the arguments: {error}"))
        except Exception as error:
            flight.fail(error)
        else:
            flight.start(body)


async def _answer(response: DeploymentResponse) -> Any:
    """Return what another call waits for. Giving that one up does not cancel this: others may wait for it, too."""
    outcome = outcome_of(response)
    await asyncio.wait((outcome,))
    if outcome.cancelled():
        raise HandleMisused("an argument is the response of a call that was cancelled")
    return outcome.result()


def _is_response(value: Any) -> bool:
    return isinstance(value, DeploymentResponse)


def _has_responses(value: Any) -> bool:
    try:
        return next(found(value, DeploymentResponse), None) is not None
    except TooDeep:
        return False


def _encoded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[bytes]:
    try:
        parts = encoding.encode([list(args), kwargs], "")
    except EncodingFailed as error:
        place = error.message.replace("[0]", "args", 1) if error.message.startswith("[0]") else error.message
        place = place.replace("[1]", "kwargs", 1) if place.startswith("[1]") else place
        raise EncodingFailed(place, hint=error.hint) from None
    return pieces(parts, WHOLE_BYTES, CHUNK_BYTES)
