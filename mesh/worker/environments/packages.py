"""Gets uploaded packages from the control plane.

Owns whom to ask: any instance has them, so they are asked one after the other, the one that answered last time first.
Trusts none of them: the bytes must have the digest. Called in the event loop by the worker's environments.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import grpc

from mesh.clock import Clock
from mesh.connection import channel, connect
from mesh.credentials import Credentials
from mesh.errors import EnvironmentFailed, Unreachable
from mesh.liveness import RECONNECT, pings
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1.package_service_pb2 import DownloadRequest, DownloadResponse
from mesh.v1.package_service_pb2_grpc import PackageServiceStub

PACKAGE_BYTES_MAX = 512 * 1024 * 1024
_ROUNDS = 3
_SILENT_TIMEOUT_S = 30.0
"""Longest wait for the next part of a package."""
_OPTIONS = (
    *pings(),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)


class Packages:
    """A client of `PackageService` at all addresses of the control plane."""

    def __init__(self, addresses: Sequence[str], credentials: Credentials, clock: Clock) -> None:
        self._addresses = list(addresses)
        self._credentials = credentials
        self._clock = clock

    async def download(self, digest: str, into: Path) -> None:
        """Write the package of this digest ("sha256:…") to the file `into`. Raises EnvironmentFailed."""
        why = ""
        for attempt in range(_ROUNDS):
            for address in list(self._addresses):
                try:
                    await self._download(address, digest, into)
                except Unreachable as error:
                    why = error.message
                else:
                    self._addresses.remove(address)
                    self._addresses.insert(0, address)
                    return
            if attempt + 1 < _ROUNDS:
                await asyncio.sleep(RECONNECT.pause_s(attempt, self._clock.random))
        raise EnvironmentFailed(f"the package cannot be had from the control plane: {why}", hint="try again later")

    async def _download(self, address: str, digest: str, into: Path) -> None:
        async with channel(address, self._credentials, _OPTIONS) as opened:
            await connect(opened, address)
            call = PackageServiceStub(opened).Download(DownloadRequest(digest=digest))
            try:
                with into.open("wb") as file:
                    found = await _received(call, file)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    text = f"the control plane has no package {digest}"
                    raise EnvironmentFailed(text, hint="deploy again: that uploads it") from error
                raise Unreachable(f"{address}: {error.code().name}: {error.details()}") from error
            except TimeoutError as error:
                raise Unreachable(f"{address} sent nothing for {_SILENT_TIMEOUT_S:g} s") from error
        if found != digest:
            raise Unreachable(f"{address} sent bytes whose digest is another: {found}")


def too_large(what: str) -> EnvironmentFailed:
    """Return the refusal of what has more than PACKAGE_BYTES_MAX."""
    text = f"the {what} has more than {PACKAGE_BYTES_MAX // (1024 * 1024)} MiB"
    return EnvironmentFailed(text, hint="make it smaller")


async def _received(call: grpc.aio.UnaryStreamCall[DownloadRequest, DownloadResponse], file: BinaryIO) -> str:
    """Write what comes, and return its digest."""
    digest, size = hashlib.sha256(), 0
    while True:
        async with asyncio.timeout(_SILENT_TIMEOUT_S):
            part = await call.read()
        if not isinstance(part, DownloadResponse):
            return f"sha256:{digest.hexdigest()}"
        size += len(part.data)
        if size > PACKAGE_BYTES_MAX:
            call.cancel()
            raise EnvironmentFailed(
                f"the package has more than {PACKAGE_BYTES_MAX // (1024 * 1024)} MiB", hint="make it smaller"
            )
        digest.update(part.data)
        await asyncio.to_thread(file.write, part.data)
