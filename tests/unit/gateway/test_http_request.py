"""A body that is taken while its request waits for a slot, and the client's leave after it, whichever comes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.gateway.answer import ClientGone
from mesh.gateway.exchange import Exchange
from mesh.gateway.http_request import EarlyBody, Message, Request, read_body
from tests.support.pipes import turns

HALF = bytes(EarlyBody.BYTES)


class Untimed(Exchange):
    """An exchange without a call: nothing is late."""

    __slots__ = ()

    def __init__(self) -> None: ...

    def reading(self, limit: asyncio.Timeout | None) -> None: ...

    def await_body(self) -> None: ...

    def body_came(self) -> None: ...

    def body_over(self) -> None: ...


class Client:
    """What the server hands over, when the test says so."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.receiving = self.receiving_most = 0

    def sends(self, body: bytes, *, more: bool) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leaves(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        self.receiving += 1
        self.receiving_most = max(self.receiving, self.receiving_most)
        try:
            return await self._messages.get()
        finally:
            self.receiving -= 1


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def request_of(client: Client) -> Request:
    async def send(_: Any) -> None: ...

    return Request({"method": "POST", "client": None, "http_version": "1.1"}, client.receive, send)


def read(request: Request, length: int) -> asyncio.Task[tuple[bytes, bool]]:
    return asyncio.ensure_future(read_body(request, Untimed(), length, 10**9, only_begin=True))


@pytest.mark.parametrize("more", [True, False], ids=["the server owes the end", "the end came with the rest"])
async def test_the_leave_after_a_body_that_was_read_by_its_length_is_noticed(
    client: Client, request_of: Request, more: bool
) -> None:
    watch = asyncio.ensure_future(request_of.early_body())
    client.sends(HALF, more=True)
    await turns()
    client.sends(HALF, more=more)
    assert await read(request_of, 2 * len(HALF)) == (2 * HALF, False)
    await turns()
    assert not watch.done()
    client.leaves()
    assert isinstance(await watch, ClientGone)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_watch_that_begins_after_the_reading_takes_nothing_of_the_body(
    client: Client, request_of: Request, whole: bool
) -> None:
    reading = read(request_of, 2 * len(HALF))
    client.sends(HALF, more=True)
    if whole:
        client.sends(HALF, more=True)
    await turns()
    watch = asyncio.ensure_future(request_of.early_body())
    await turns()
    if not whole:
        client.sends(HALF, more=True)
    assert await reading == (2 * HALF, False)
    await turns()
    assert client.receiving_most == 1 and not watch.done()
    client.leaves()
    assert isinstance(await watch, ClientGone)
