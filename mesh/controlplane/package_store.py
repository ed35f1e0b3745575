"""Packages in the store: whole or not there at all, whoever else writes and whatever ends in the middle.

Owns the order of writes. An upload first reserves its room, then writes chunks under its own id, each only while the
reservation stands, and last one record makes the package appear. What has no record is garbage and still has its
reservation, by which it is found. Needs no leader: every write compares what it was decided on. Decides nothing about
age (`collection`). Called by `package_service`, `api` and `collector`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.controlplane.collection import counted_bytes, used_bytes
from mesh.controlplane.package_records import (
    PACKAGES,
    UPLOADS,
    USAGE,
    StoredPackage,
    StoredUpload,
    chunk_keys,
    decode_package,
    decode_upload,
    digest_of,
    encode,
    package_key,
    upload_key,
)
from mesh.controlplane.store import Compare, Item, OutcomeUnknown, Put, Remove, Store
from mesh.errors import Conflict, MeshError, NotFound, Unreachable

ASKED_EVERY_S = 300.0
"""Seconds within which it is not noted again that a package was asked for."""
ATTEMPTS_MAX = 8
_PAUSES = Backoff(initial_s=0.02, max_s=0.5)
_WRITES_MAX = 2
"""Commits of chunks at a time in one process: the store has the goal state to keep as well."""
_KEYS_PER_COMMIT = 40
_SWEEP_PAUSE_S = 0.02

log = logging.getLogger("mesh.controlplane.package_store")


class NoRoom(MeshError):
    """There is no room for a package, or it is larger than one may be."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation: the right to write the chunks of one package."""

    upload_id: str
    record: StoredUpload
    revision: int

    @property
    def fence(self) -> Compare:
        """What each write of it compares."""
        return Compare(upload_key(self.upload_id), self.revision)

    @property
    def chunk_keys(self) -> tuple[str, ...]:
        """Where its chunks lie, in order."""
        return chunk_keys(self.upload_id, self.record.size)


@dataclass(frozen=True, slots=True)
class Records:
    """All that is there, without any chunk."""

    packages: Mapping[str, StoredPackage]
    uploads: Mapping[str, StoredUpload]
    items: Mapping[str, Item]

    def revision_of(self, key: str) -> int:
        """Return the revision of the key's last change; 0: it does not exist."""
        return self.items[key].revision if key in self.items else 0

    def upload(self, upload_id: str) -> Reservation:
        """Return an upload that there is."""
        return Reservation(upload_id, self.uploads[upload_id], self.revision_of(upload_key(upload_id)))


class PackageStore:
    """Reads and writes packages. Every method raises Unreachable as the store does."""

    def __init__(self, store: Store, clock: Clock, quota_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._quota_bytes = quota_bytes
        self._writes = asyncio.Semaphore(_WRITES_MAX)

    async def close(self) -> None:
        """Free everything."""
        await self._store.close()

    async def records(self) -> Records:
        """Return what is there."""
        packages, uploads = await self._store.list(PACKAGES), await self._store.list(UPLOADS)
        items = {item.key: item for item in (*packages.items, *uploads.items)}
        return Records(
            {digest_of(item.key): decode_package(item) for item in packages.items},
            {item.key.removeprefix(UPLOADS): decode_upload(item) for item in uploads.items},
            items,
        )

    async def missing(self, digests: Collection[str]) -> frozenset[str]:
        """Return which of `digests` are not there; the others are kept for some time from now on."""
        wanted = frozenset(digests)
        for attempt in range(ATTEMPTS_MAX if wanted else 0):
            await self._pause(attempt)
            records = await self.records()
            there = {digest: records.packages[digest] for digest in wanted if digest in records.packages}
            try:
                await self._note_asked(there, records)
            except (Conflict, OutcomeUnknown):
                continue
            return wanted - set(there)
        if wanted:
            raise Unreachable("the packages kept changing meanwhile", hint="repeat the command")
        return frozenset()

    async def begin(self, digest: str, size: int) -> Reservation | None:
        """Reserve room for a package of `size` bytes; None if it is there already. Raises NoRoom."""
        upload_id = self._clock.token(32)
        record = StoredUpload(digest, size, self._clock.wall())
        key = upload_key(upload_id)
        for attempt in range(ATTEMPTS_MAX):
            await self._pause(attempt)
            usage = await self._store.get(USAGE)
            records = await self.records()
            if upload_id in records.uploads:
                return records.upload(upload_id)  # a commit whose outcome was unknown had come through
            if digest in records.packages and not await self.missing((digest,)):
                return None
            self._check_room(size, records)
            compares = (Compare(USAGE, usage.revision if usage else 0), Compare(key, 0))
            try:
                revision = await self._store.commit(compares, (Put(USAGE, b""), Put(key, encode(record))))
            except (Conflict, OutcomeUnknown):
                continue
            return Reservation(upload_id, record, revision)
        raise Unreachable("too many uploads begin at once", hint="repeat the command")

    async def write(self, upload: Reservation, number: int, data: bytes) -> None:
        """Write chunk `number`. Raises Unreachable if the upload was given up meanwhile."""
        async with self._writes:
            await self._certainly((upload.fence,), (Put(upload.chunk_keys[number], data),))

    async def finish(self, upload: Reservation) -> None:
        """Make the package appear: all its chunks are written. Another upload of it may have been faster."""
        key = package_key(upload.record.digest)
        package = StoredPackage(upload.record.size, upload.upload_id, self._clock.wall())
        operations = (Put(key, encode(package)), Remove(upload_key(upload.upload_id)))
        for attempt in range(ATTEMPTS_MAX):
            await self._pause(attempt)
            try:
                await self._store.commit((upload.fence, Compare(key, 0)), operations)
                return
            except (Conflict, OutcomeUnknown):
                item = await self._store.get(key)
                if item is not None:
                    if decode_package(item).upload != upload.upload_id:
                        await self.abandon(upload)
                    return
                if (await self._store.get(upload_key(upload.upload_id))) is None:
                    break
        raise _given_up()

    async def abandon(self, upload: Reservation) -> None:
        """Leave an upload that did not end to the collector. If that fails, it is found by its age."""
        try:
            await self._mark(upload)
        except MeshError as error:
            log.info("an upload that broke off is left until it is old: %s", error)

    async def package(self, digest: str) -> StoredPackage:
        """Return a package that is there, and keep it for some time. Raises NotFound."""
        item = None if await self.missing((digest,)) else await self._store.get(package_key(digest))
        if item is None:
            hint = "deploy again from where the code is: meshctl uploads what is missing"
            raise NotFound(f"there is no package {digest}", hint=hint)
        return decode_package(item)

    async def chunk(self, key: str) -> bytes:
        """Return a chunk of a package that is there. Raises NotFound if it was removed meanwhile."""
        item = await self._store.get(key)
        if item is None:
            raise NotFound("the package was removed while it was read", hint="nothing had named it; deploy again")
        return item.value

    async def remove(self, digest: str, records: Records) -> None:
        """Make a package disappear; its chunks become those of an upload that was abandoned.

        Raises Conflict if it was asked for since `records` were read.
        """
        key, package = package_key(digest), records.packages[digest]
        rest = StoredUpload(digest, package.size, self._clock.wall(), abandoned=True)
        compares = (Compare(key, records.revision_of(key)), Compare(upload_key(package.upload), 0))
        await self._store.commit(compares, (Remove(key), Put(upload_key(package.upload), encode(rest))))

    async def sweep(self, upload: Reservation) -> None:
        """Remove the chunks of an upload that nobody goes on with, in small steps, and it last. Raises Conflict."""
        if not upload.record.abandoned:
            # From here on, whoever still wrote it can write no more.
            upload = await self._mark(upload)
        keys = upload.chunk_keys
        for start in range(0, len(keys), _KEYS_PER_COMMIT):
            step = keys[start : start + _KEYS_PER_COMMIT]
            await self._store.commit((upload.fence,), tuple(Remove(key) for key in step))
            await asyncio.sleep(_SWEEP_PAUSE_S)
        await self._store.commit((upload.fence,), (Remove(upload_key(upload.upload_id)),))

    async def _mark(self, upload: Reservation) -> Reservation:
        record = replace(upload.record, abandoned=True)
        revision = await self._store.commit((upload.fence,), (Put(upload_key(upload.upload_id), encode(record)),))
        return Reservation(upload.upload_id, record, revision)

    async def _note_asked(self, packages: Mapping[str, StoredPackage], records: Records) -> None:
        now = self._clock.wall()
        due = [(package_key(d), replace(p, asked_at=now)) for d, p in packages.items() if _is_due(p, now)]
        for start in range(0, len(due), _KEYS_PER_COMMIT):
            step = due[start : start + _KEYS_PER_COMMIT]
            compares = [Compare(key, records.revision_of(key)) for key, _ in step]
            await self._store.commit(compares, [Put(key, encode(package)) for key, package in step])

    async def _certainly(self, compares: Sequence[Compare], operations: Sequence[Put]) -> None:
        """Commit what may be repeated without harm. Raises Unreachable if a compare does not hold."""
        for attempt in range(ATTEMPTS_MAX):
            await self._pause(attempt)
            try:
                await self._store.commit(compares, operations)
                return
            except OutcomeUnknown as error:
                log.info("a chunk is written again: %s", error)
            except Conflict:
                raise _given_up() from None
        raise Unreachable("the store did not say whether it has what it was given", hint="repeat the command")

    def _check_room(self, size: int, records: Records) -> None:
        used, wanted = used_bytes(records.packages, records.uploads), counted_bytes(size)
        if used + wanted <= self._quota_bytes:
            return
        mib = 1024 * 1024
        text = (
            f"there is no room for a package of {wanted / mib:.1f} MiB: {used / mib:.1f} of"
            f" {self._quota_bytes / mib:.1f} MiB are used by {len(records.packages)} packages"
        )
        hint = (
            "delete applications that are not needed: packages that nothing names go an hour after they were last"
            " asked for; or start the control planes with a larger --package-quota"
        )
        raise NoRoom(text, hint=hint)

    async def _pause(self, attempt: int) -> None:
        if attempt:
            await asyncio.sleep(_PAUSES.pause_s(attempt, self._clock.random))


def _is_due(package: StoredPackage, now: float) -> bool:
    # Also when the clock that noted it last was ahead of this one.
    return not 0 <= now - package.asked_at < ASKED_EVERY_S


def _given_up() -> Unreachable:
    return Unreachable("the upload took too long and was given up", hint="repeat the command")
