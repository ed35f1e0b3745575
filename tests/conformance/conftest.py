"""Both stores, empty, for the tests that every store must pass."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from mesh.controlplane import etcdrpc
from mesh.controlplane.etcd_store import EtcdOptions, open_etcd
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import Put, Store
from tests.support.etcd import EtcdCluster

_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    """One for each module: leases that a test leaves to expire move the revision of all."""
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "memory", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "etcd":
        cluster: EtcdCluster = request.getfixturevalue("etcd")
        opened = await open_etcd(EtcdOptions(cluster.endpoints, f"/conformance/{next(_prefixes)}", timeout_s=5.0))
    elif request.param == "memory":
        opened = await open_sqlite(":memory:")
    else:
        directory = request.getfixturevalue("tmp_path")
        opened = await open_sqlite(str(directory / "store.db"))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def forgetful(
    request: pytest.FixtureRequest, store: Store
) -> AsyncIterator[tuple[Store, Callable[[], Awaitable[int]]]]:
    """A store and a function that makes it forget its history so far and returns the oldest revision kept."""
    if "etcd" in request.node.callspec.id:
        cluster: EtcdCluster = request.getfixturevalue("etcd")

        async def compact() -> int:
            revision = (await store.list("")).revision
            with cluster.members[0].channel() as channel:
                etcdrpc.KVStub(channel).Compact(etcdrpc.CompactionRequest(revision=revision), timeout=5.0)
            return revision

        yield store, compact
        return
    small = await open_sqlite(":memory:", keep_revisions=10)

    async def outlive() -> int:
        revision = (await small.list("")).revision
        for _ in range(11):
            last = await small.commit((), (Put("filler", b""),))
        # It forgets in steps: only what is surely gone and what is surely there matters.
        return max(revision + 1, last - 9)

    yield small, outlive
    await small.close()
