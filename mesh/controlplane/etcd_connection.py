"""The connection to an etcd cluster: channels, login, threads, repeats.

Owns the `etcd3` clients and the asyncio channel beside them, which share one target and one login. Maps every
foreign error. Knows nothing of keys. Called by `etcd_store` and `etcd_watch`.

The code that etcd3 0.12.0 was generated with cannot be loaded beside a current protobuf, so its place in
`sys.modules` is taken by our own `etcdrpc`. Its watcher, lock and lease refresh are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import tenacity

from mesh.clock import Clock
from mesh.controlplane import etcdrpc
from mesh.controlplane.etcd_errors import Effect, Failure, classify, in_short
from mesh.controlplane.etcd_options import Address, EtcdOptions, channel_arguments, channel_target, is_literal
from mesh.controlplane.store import OutcomeUnknown, StoreUnreachable
from mesh.errors import InvalidConfig, Problem, Unreachable

_THREADS = 8
_CALLS_MAX = 256
_LOOKUP_PAUSE_S = 5.0
_HINT = "check that etcd runs there and that the addresses and TLS files are right"
_REPEAT_WAIT = tenacity.wait_random_exponential(multiplier=0.05, max=0.5)
_T = TypeVar("_T")

log = logging.getLogger("mesh.controlplane.etcd_connection")


class EtcdConnection:
    """One cluster, connected. Made by `connect`."""

    def __init__(self, options: EtcdOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.closed = asyncio.Event()
        self._endpoints = options.addresses()
        self._addresses: tuple[Address, ...] = ()
        self._links: _Links | None = None
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="etcd")
        self._slots = asyncio.Semaphore(_CALLS_MAX)
        self._login_lock = asyncio.Lock()
        self._token = ""
        self._looked_up_at = clock.monotonic()

    @property
    def links(self) -> _Links:
        """The channels now. Raises Unreachable once closed."""
        if self.closed.is_set() or self._links is None:
            raise Unreachable("the store is closed")
        return self._links

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: a member cut off from the others must refuse it; the login, if there is one."""
        leader = (("hasleader", "true"),)
        return (*leader, ("token", self._token)) if self._token else leader

    async def connect(self) -> None:
        """Look up the endpoints, read the TLS files, log in. Raises InvalidConfig or Unreachable."""
        self._addresses = await self._look_up()
        self._links = await self._open_links(self._addresses)
        self._set_metadata()
        if self.options.user:
            await self.read(lambda client: None)

    async def read(self, work: Callable[[Any], _T]) -> _T:
        """Run a call that may be repeated on an etcd3 client, in a thread, and repeat it while time is left."""
        return await self.repeat(lambda: self._in_thread(lambda: work(self.links.reader)))

    async def write(self, work: Callable[[Any], _T]) -> _T:
        """Run a call on an etcd3 client, repeated only if it surely had no effect. Raises OutcomeUnknown."""
        return await self.repeat(lambda: self._in_thread(lambda: work(self.links.writer)), writes=True)

    async def repeat(self, once: Callable[[], Awaitable[_T]], *, writes: bool = False) -> _T:
        """Run `once`, again where that is safe and may help, until the time for one call is over."""
        call = _Call(writes)
        limit_s = self.options.timeout_s * (2 if writes else 1)
        repeats = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Again),
            stop=tenacity.stop_after_delay(self.options.timeout_s),
            wait=_REPEAT_WAIT,
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            async with asyncio.timeout(limit_s), self._slots:
                async for attempt in repeats:
                    with attempt:
                        return await self._once(once, call)
        except (TimeoutError, _Again):
            await self.mend()
            raise self._given_up(call) from None
        raise AssertionError("the repeats ended without a result")

    async def mend(self) -> None:
        """After a failure: if the endpoints' names now mean other addresses, connect to those."""
        now = self.clock.monotonic()
        if all(is_literal(host) for host, _ in self._endpoints) or now - self._looked_up_at < _LOOKUP_PAUSE_S:
            return
        self._looked_up_at = now
        with contextlib.suppress(Unreachable):
            addresses = await self._look_up()
            if set(addresses) == set(self._addresses) or self.closed.is_set():
                return
            log.info("etcd has other addresses now: %s", ", ".join(host for host, _ in addresses))
            old, self._links = self.links, await self._open_links(addresses)
            self._addresses = addresses
            self._set_metadata()
            await old.close()

    async def login(self) -> None:
        """Get a new token. Raises InvalidConfig if etcd refuses the user, grpc.RpcError if it does not answer."""
        before = self._token
        async with self._login_lock:
            if self._token != before:
                return
            request = etcdrpc.AuthenticateRequest(name=self.options.user, password=self._password())
            stub = etcdrpc.AuthStub(self.links.reader.channel)
            answer = await self._in_thread(lambda: stub.Authenticate(request, timeout=self.options.timeout_s / 2))
            self._token = answer.token
            self._set_metadata()

    async def close(self) -> None:
        """End all calls and streams."""
        links, self._links = self._links, None
        self.closed.set()
        if links is not None:
            await links.close()
        self._executor.shutdown(wait=False)

    async def _once(self, once: Callable[[], Awaitable[_T]], call: _Call) -> _T:
        call.started = False
        try:
            if self.options.user and not self._token:
                await self.login()
            call.started = True
            return await once()
        except Exception as error:
            rpc = rpc_error(error)
            if self.closed.is_set():
                kind = OutcomeUnknown if call.writes and rpc is not None else Unreachable
                raise kind("the store is closed") from None
            if rpc is None:
                raise
            failure = call.failure = classify(rpc.code(), rpc.details() or "")
            if failure.effect is Effect.FINAL and failure.error is not None:
                raise failure.error from None
            call.started = call.started and failure.effect is Effect.UNKNOWN
            if call.writes and call.started:
                raise self._given_up(call) from None
            if failure.effect is Effect.LOGIN and self.options.user:
                self._token = ""
            raise _Again from None

    def _given_up(self, call: _Call) -> Exception:
        failure = call.failure
        if failure is not None and failure.effect is Effect.LOGIN and failure.error is not None:
            return failure.error
        reason = (in_short(failure.text) if failure else "") or f" within {self.options.timeout_s:g} s"
        text = f"etcd at {self.options.names} did not answer{reason}"
        hint = failure.hint if failure and failure.hint else _HINT
        if call.writes and call.started:
            return OutcomeUnknown(text, hint=hint)
        return StoreUnreachable(f"the store cannot be reached: {text}", hint=hint)

    def _password(self) -> str:
        try:
            with open(self.options.password_file, encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problem = Problem("etcd.password_file", f"{self.options.password_file} cannot be read: {error}")
            raise InvalidConfig((problem,)) from None

    def _set_metadata(self) -> None:
        if self._links is not None:
            self._links.reader.metadata = self._links.writer.metadata = self.metadata

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if self.closed.is_set():
            raise Unreachable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _open_links(self, addresses: tuple[Address, ...]) -> _Links:
        """Connects nothing yet. Raises InvalidConfig if a TLS file is no good."""
        options = self.options
        arguments = channel_arguments(options.authority, tls=bool(options.ca_cert))
        target = channel_target(addresses)
        credentials = await self._in_thread(lambda: _credentials(options))
        # A read has time for a second member when the first says nothing.
        reader = await self._in_thread(lambda: _client(options, target, arguments, options.timeout_s / 2))
        writer = await self._in_thread(lambda: _client(options, target, arguments, options.timeout_s))
        if credentials is None:
            return _Links(reader, writer, grpc.aio.insecure_channel(target, options=arguments))
        return _Links(reader, writer, grpc.aio.secure_channel(target, credentials, options=arguments))

    async def _look_up(self) -> tuple[Address, ...]:
        """Return the IP addresses of all endpoints that have any: IPv4 where there is a choice."""
        found: list[Address] = []
        reasons: list[str] = []
        for host, port in self._endpoints:
            try:
                async with asyncio.timeout(self.options.timeout_s):
                    answers = await asyncio.get_running_loop().getaddrinfo(host, port, proto=6)
            except (OSError, TimeoutError) as error:
                reasons.append(f"{host}: {str(error) or 'no answer'}")
                continue
            hosts = dict.fromkeys(str(answer[4][0]) for answer in answers)
            chosen = [literal for literal in hosts if ":" not in literal] or list(hosts)
            found += [(literal, port) for literal in chosen]
        if not found:
            text = f"the store cannot be reached: etcd at {self.options.names} cannot be found ({'; '.join(reasons)})"
            raise StoreUnreachable(text, hint="check the host names")
        return tuple(dict.fromkeys(found))


@dataclass
class _Call:
    """One call with its repeats. `started`: the last attempt may have reached etcd and had its effect."""

    writes: bool
    started: bool = False
    failure: Failure | None = None


class _Again(Exception):
    """The attempt failed in a way that another may not."""


@dataclass
class _Links:
    """The channels to one set of addresses. gRPC shares the connections between those of the same kind."""

    reader: Any
    writer: Any
    channel: grpc.aio.Channel
    watch: Any = field(init=False)
    lease: Any = field(init=False)

    def __post_init__(self) -> None:
        self.watch = etcdrpc.WatchStub(self.channel)
        self.lease = etcdrpc.LeaseStub(self.channel)

    async def close(self) -> None:
        """End all calls on these channels."""
        await self.channel.close()
        self.reader.close()
        self.writer.close()


def rpc_error(error: BaseException) -> Any:
    """Return the gRPC error that `error` is, or that etcd3 hid behind it; None if there is none."""
    if isinstance(error, grpc.RpcError):
        return error
    hidden = error.__context__
    return hidden if isinstance(hidden, grpc.RpcError) and type(error).__module__.startswith("etcd3") else None


def _etcd3() -> Any:
    sys.modules.setdefault("etcd3.etcdrpc", etcdrpc)
    return importlib.import_module("etcd3")


def _client(options: EtcdOptions, target: str, arguments: tuple[tuple[str, str | int], ...], timeout_s: float) -> Any:
    # etcd3 joins host and port with a colon; the target's last port goes where it expects one.
    host, _, port = target.rpartition(":")
    return _etcd3().client(
        host=host,
        port=port,
        ca_cert=options.ca_cert or None,
        cert_cert=options.cert_cert or None,
        cert_key=options.cert_key or None,
        timeout=timeout_s,
        grpc_options=arguments,
    )


def _credentials(options: EtcdOptions) -> grpc.ChannelCredentials | None:
    if not options.ca_cert:
        return None
    try:
        # gRPC would say nothing of a file that is no certificate, and only fail to connect.
        context = ssl.create_default_context(cafile=options.ca_cert)
        if options.cert_cert:
            context.load_cert_chain(options.cert_cert, options.cert_key)
        files = [options.ca_cert, options.cert_key, options.cert_cert]
        root, key, chain = (_bytes(path) if path else None for path in files)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(path for path in (options.ca_cert, options.cert_cert, options.cert_key) if path)
        text = f"the TLS files ({names}) cannot be used: {error}"
        raise InvalidConfig((Problem("etcd.ca_cert", text, "name PEM files that this user may read"),)) from None
    return grpc.ssl_channel_credentials(root, key, chain)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
