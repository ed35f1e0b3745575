"""The store on an etcd cluster, for a control plane of several instances.

Owns how the `Store` contract is said in etcd's words: key-value calls, transactions and leases through the
package etcd3, watches and lease renewals on the same stubs over grpc.aio. Connections, repeats and errors are
`etcd_connection`'s, streams of changes `etcd_watch`'s. Opened by the control plane's server.

etcd counts leases in whole seconds and lets none be shorter than its election takes (2 s unless configured), so
that a lease here may last longer than was asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc

from mesh.clock import SYSTEM, Clock
from mesh.controlplane import etcdrpc
from mesh.controlplane.commit_rules import check_commit, prefix_end
from mesh.controlplane.etcd_connection import EtcdConnection
from mesh.controlplane.etcd_options import EtcdOptions
from mesh.controlplane.etcd_watch import follow
from mesh.controlplane.store import Batch, Compare, Item, Listing, Put, Remove
from mesh.errors import Conflict, NotFound, Unreachable
from mesh.lifecycle import Tasks

__all__ = ["EtcdOptions", "EtcdStore", "open_etcd"]

_PAGE_ITEMS = 128


async def open_etcd(options: EtcdOptions, *, clock: Clock = SYSTEM) -> EtcdStore:
    """Connect and make sure that etcd answers. Raises InvalidConfig (options, login) or Unreachable."""
    connection = EtcdConnection(options, clock)
    store = EtcdStore(connection)
    try:
        await connection.connect()
        await store.get("-")
    except BaseException:
        await store.close()
        raise
    return store


class EtcdStore:
    """Keeps the `Store` contract on an etcd. Made by `open_etcd`."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._connection = connection
        self._root = connection.options.root
        self._tasks = Tasks()

    async def get(self, key: str) -> Item | None:
        """Return the item, or None."""
        value, found = await self._connection.read(lambda client: client.get(self._root + key))
        return None if found is None else Item(key, value, found.mod_revision)

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Return all items under `prefix`, now or at `revision`. Raises Compacted."""
        start = (self._root + prefix).encode()
        at, found = await self._connection.read(lambda client: _read_all(client, start, revision))
        cut = len(self._root.encode())
        return Listing(at, tuple(Item(item.key[cut:].decode(), item.value, item.mod_revision) for item in found))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> int:
        """Do all operations if all compares hold; return the new revision."""
        check_commit(compares, operations)

        def transact(client: Any) -> tuple[bool, Sequence[Any]]:
            conditions = [client.transactions.mod(self._root + c.key) == c.revision for c in compares]
            success = [self._operation(client, operation) for operation in operations]
            done: tuple[bool, Sequence[Any]] = client.transaction(conditions, success, [])
            return done

        done, responses = await self._connection.write(transact)
        if not done:
            keys = ", ".join(repr(compare.key) for compare in compares)
            text = f"one of these was changed meanwhile: {keys}"
            raise Conflict(text, hint="read it again and repeat the change")
        if not responses:
            return (await self.list("-")).revision
        return max(_revision(response) for response in responses)

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        """Yield each change under `prefix` after revision `after`. Ends when the store is closed."""
        return follow(self._connection, self._tasks, prefix, after)

    async def grant(self, ttl_s: float) -> int:
        """Return a new lease of at least `ttl_s` seconds."""
        if not ttl_s > 0:
            raise ValueError("a lease lasts more than 0 seconds")
        # Repeating is safe: a lease that nobody knows of ends by itself.
        lease = await self._connection.read(lambda client: client.lease(math.ceil(ttl_s)))
        return int(lease.id)

    async def keep_alive(self, lease: int) -> float:
        """Renew the lease and return its seconds. Raises NotFound."""
        seconds = await self._connection.repeat(lambda: self._renew(lease))
        if seconds <= 0:
            raise NotFound(f"lease {lease:x} has ended")
        return float(seconds)

    async def revoke(self, lease: int) -> None:
        """End the lease now and remove its keys."""
        try:
            await self._connection.read(lambda client: client.revoke_lease(lease))
        except NotFound:
            return

    async def close(self) -> None:
        """End all watches and calls."""
        await self._connection.close()
        await self._tasks.cancel()

    async def _renew(self, lease: int) -> int:
        connection = self._connection
        stub = connection.links.lease
        call = stub.LeaseKeepAlive(metadata=connection.metadata, timeout=connection.options.timeout_s / 2)
        try:
            await call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease))
            response = await call.read()
            if response is grpc.aio.EOF:
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "etcd ended the stream")
            return int(response.TTL)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if connection.closed.is_set() and task is not None and not task.cancelling():
                raise Unreachable("the store is closed") from None
            raise
        finally:
            call.cancel()

    def _operation(self, client: Any, operation: Put | Remove) -> Any:
        key = self._root + operation.key
        if isinstance(operation, Remove):
            return client.transactions.delete(key)
        return client.transactions.put(key, operation.value, operation.lease)


def _read_all(client: Any, start: bytes, revision: int) -> tuple[int, Sequence[Any]]:
    """Read all pages of a prefix at one revision. (The package's own prefix read drops the revision.)"""
    key, end = start or b"\0", prefix_end(start) or b"\0"
    found: list[Any] = []
    while True:
        request = etcdrpc.RangeRequest(key=key, range_end=end, limit=_PAGE_ITEMS, revision=revision)
        page = client.kvstub.Range(
            request, client.timeout, credentials=client.call_credentials, metadata=client.metadata
        )
        revision = revision or page.header.revision
        found += page.kvs
        if not page.more:
            return revision, found
        key = page.kvs[-1].key + b"\0"


def _revision(response: Any) -> int:
    """Return the store's revision after one operation of a transaction."""
    kind = response.WhichOneof("response")
    return int(getattr(response, kind).header.revision)
