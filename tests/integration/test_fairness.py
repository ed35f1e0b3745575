"""Four replicas behind one gateway, under steady load: who gets how many of the calls."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.data_path import Connection, DataPath, data_path
from tests.support.gateways import Routed
from tests.support.replicas import ReplicaProcess

REPLICAS = 4
CLIENTS = 16
REQUESTS = 800
SHARE = REQUESTS / REPLICAS


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        yield path


async def served(path: DataPath, *replicas: ReplicaProcess) -> Counter[int]:
    """Send `REQUESTS`, each client its next one when it is answered. Return how many each process answered.

    Those that were answered with 500 count for 0.
    """
    endpoints = tuple((replica.replica_id, replica.address) for replica in replicas)
    await path.gateways.publish(Routed(ongoing=CLIENTS, endpoints=endpoints))
    answered: Counter[int] = Counter()

    async def client() -> None:
        connection = await Connection.open(path.gateways.addresses[0])
        for _ in range(REQUESTS // CLIENTS):
            connection.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            status, _, body = await connection.answer()
            assert status in (200, 500)
            answered[json.loads(body)["pid"] if status == 200 else 0] += 1
        await connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await path.gateways.idle()
    assert answered.total() == REQUESTS
    return answered


async def test_equal_replicas_share_equally(path: DataPath) -> None:
    replicas = [await path.replica_of("steady", ongoing=CLIENTS) for _ in range(REPLICAS)]
    answered = await served(path, *replicas)
    assert set(answered) == {replica.pid for replica in replicas}
    assert max(answered.values()) <= 1.1 * SHARE, answered


async def test_one_that_fails_at_once_draws_no_more_than_its_share(path: DataPath) -> None:
    replicas = [await path.replica_of("steady", ongoing=CLIENTS) for _ in range(REPLICAS - 1)]
    broken = await path.replica_of("failing", ongoing=CLIENTS)
    answered = await served(path, *replicas, broken)
    assert set(answered) == {0} | {replica.pid for replica in replicas}
    assert answered[0] <= 1.1 * SHARE, answered
