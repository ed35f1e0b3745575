"""PackageService: takes and gives uploaded code, in any instance of the control plane.

Owns the streams: their order, sizes, deadlines and how many there are at a time; digest and size are verified while
bytes come, and what does not hold never appears. Keeps at most one chunk of each stream in memory. What lies in the
store and how is `package_store`'s. Called by grpc.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.controlplane.collection import UPLOAD_S_MAX
from mesh.controlplane.package_records import CHUNK_BYTES, chunk_keys
from mesh.controlplane.package_store import NoRoom, PackageStore, Reservation
from mesh.controlplane.rpc_errors import abort
from mesh.controlplane.streams import PeerGone, read, write
from mesh.errors import DeadlineExceeded, InvalidConfig, MeshError, Problem, Unreachable
from mesh.lifecycle import Tasks
from mesh.packages.pack import PACKAGE_BYTES_MAX
from mesh.packages.place import is_digest
from mesh.v1 import package_service_pb2 as api
from mesh.v1 import package_service_pb2_grpc

DIGESTS_MAX = 200
"""In one question."""
DATA_BYTES_MAX = 256 * 1024
"""In one message."""
UPLOADS_MAX = 4
DOWNLOADS_MAX = 16
TURN_S = 10.0
"""Seconds to wait for others to end."""
IDLE_S = 30.0
"""Seconds that the other side may take for one message."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Packages(package_service_pb2_grpc.PackageServiceServicer):
    """Serves PackageService."""

    def __init__(self, packages: PackageStore) -> None:
        self._packages = packages
        self._uploads = asyncio.Semaphore(UPLOADS_MAX)
        self._downloads = asyncio.Semaphore(DOWNLOADS_MAX)
        self._tasks = Tasks()

    async def close(self) -> None:
        """End what is done in the background."""
        await self._tasks.cancel()

    async def FindMissing(self, request: api.FindMissingRequest, context: _Context) -> api.FindMissingResponse:
        """Say which packages have to be uploaded."""
        try:
            if len(request.digests) > DIGESTS_MAX:
                raise _wrong("digests", f"{len(request.digests)} digests; {DIGESTS_MAX} are allowed", "ask in parts")
            for i, digest in enumerate(request.digests):
                _check_digest(f"digests[{i}]", digest)
            return api.FindMissingResponse(missing=sorted(await self._packages.missing(request.digests)))
        except MeshError as error:
            await abort(context, error)

    async def Upload(self, request_iterator: AsyncIterator[api.UploadRequest], context: _Context) -> api.UploadResponse:
        """Take one package."""
        try:
            async with _turn(self._uploads, "uploads"):
                try:
                    async with asyncio.timeout(UPLOAD_S_MAX):
                        await self._take(context)
                except TimeoutError:
                    text = "the upload took too long"
                    raise DeadlineExceeded(
                        text, hint="look at the network between meshctl and the control plane"
                    ) from None
            return api.UploadResponse()
        except MeshError as error:
            await abort(context, error)

    async def Download(  # type: ignore[override]
        self, request: api.DownloadRequest, context: _Context
    ) -> None:
        """Send one package."""
        try:
            _check_digest("digest", request.digest)
            async with _turn(self._downloads, "downloads"):
                package = await self._packages.package(request.digest)
                for key in chunk_keys(package.upload, package.size):
                    chunk = await self._packages.chunk(key)
                    for start in range(0, len(chunk), DATA_BYTES_MAX):
                        part = chunk[start : start + DATA_BYTES_MAX]
                        await write(context, api.DownloadResponse(data=part), IDLE_S)
        except PeerGone:
            return
        except TimeoutError:
            await abort(context, DeadlineExceeded("the package was not taken in time"))
        except MeshError as error:
            await abort(context, error)

    async def _take(self, context: _Context) -> None:
        header = await _header(context)
        if header.size > PACKAGE_BYTES_MAX:
            mib = 1024 * 1024
            text = f"a package of {header.size / mib:.1f} MiB; {PACKAGE_BYTES_MAX // mib} MiB are allowed"
            raise NoRoom(text, hint="leave out what the code does not need, by .meshignore")
        reservation = await self._packages.begin(header.digest, header.size)
        if reservation is None:
            return
        try:
            await self._receive(context, reservation)
            await self._packages.finish(reservation)
        except BaseException:
            # In the background: this call may be cancelled, and is to end now.
            self._tasks.spawn(self._packages.abandon(reservation), name="abandon-upload")
            raise

    async def _receive(self, context: _Context, reservation: Reservation) -> None:
        record, digest = reservation.record, hashlib.sha256()
        waiting, number, received = bytearray(), 0, 0
        while (data := await _data(context)) is not None:
            received += len(data)
            if received > record.size:
                break
            digest.update(data)
            waiting += data
            while len(waiting) >= CHUNK_BYTES:
                await self._packages.write(reservation, number, bytes(waiting[:CHUNK_BYTES]))
                del waiting[:CHUNK_BYTES]
                number += 1
        if received != record.size:
            count = "more" if received > record.size else f"{received}"
            raise _wrong("data", f"{count} bytes came; {record.size} were announced", "upload it again, whole")
        if f"sha256:{digest.hexdigest()}" != record.digest:
            raise _wrong("data", f"the bytes are not those of {record.digest}", "upload it again")
        if waiting:
            await self._packages.write(reservation, number, bytes(waiting))


async def _header(context: _Context) -> api.PackageHeader:
    first = await _next(context)
    if first is None or first.WhichOneof("kind") != "header":
        raise _wrong("header", "the first message is no header", "send digest and size first")
    _check_digest("header.digest", first.header.digest)
    if first.header.size == 0:
        raise _wrong("header.size", "is 0", "say how many bytes come")
    return first.header


async def _data(context: _Context) -> bytes | None:
    message = await _next(context)
    if message is None:
        return None
    if message.WhichOneof("kind") != "data":
        raise _wrong("header", "stands twice", "send one package in one call")
    if len(message.data) > DATA_BYTES_MAX:
        raise _wrong("data", f"has {len(message.data)} bytes; {DATA_BYTES_MAX} are allowed", "send smaller messages")
    return message.data


async def _next(context: _Context) -> api.UploadRequest | None:
    try:
        return await read(context, IDLE_S)
    except TimeoutError:
        raise DeadlineExceeded(f"nothing came for {IDLE_S:g} s", hint="upload it again") from None


@contextlib.asynccontextmanager
async def _turn(slots: asyncio.Semaphore, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TURN_S):
            await slots.acquire()
    except TimeoutError:
        raise Unreachable(f"there are too many {what} now", hint="repeat the command in a minute") from None
    try:
        yield
    finally:
        slots.release()


def _check_digest(field: str, digest: str) -> None:
    if not is_digest(digest):
        raise _wrong(field, "is no digest of a package", 'write "sha256:" and 64 hex digits in lower case')


def _wrong(field: str, message: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem(field, message, hint),))
