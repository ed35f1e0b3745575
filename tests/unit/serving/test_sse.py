"""Server-sent events: their form, when the answer begins, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.types import Message

import mesh
from mesh.serving.sse import encoded


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("text", "data: text\n\n"),
        ("", "data: \n\n"),
        ("two\nlines", "data: two\ndata: lines\n\n"),
        ("a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
        ({"a": [1, None, "ü"]}, 'data: {"a":[1,null,"ü"]}\n\n'),
        (None, "data: null\n\n"),
        (mesh.ServerSentEvent("x", event="tick", id="7", retry_ms=500), "event: tick\nid: 7\nretry: 500\ndata: x\n\n"),
    ],
)
def test_the_form_of_an_event(item: Any, expected: str) -> None:
    assert encoded(item) == expected.encode()


@pytest.mark.parametrize(
    "item", [mesh.ServerSentEvent("", event="a\nb"), mesh.ServerSentEvent("", id="a\0"), float("nan")]
)
def test_what_cannot_be_sent_is_refused(item: Any) -> None:
    with pytest.raises(ValueError):
        encoded(item)


async def sent(answer: Any, *, until: int = 1000) -> list[Message]:
    """Return what an answer sends; the client leaves after `until` messages."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        if len(messages) == until:
            raise OSError("gone")
        messages.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    with contextlib.suppress(OSError):
        await answer({"type": "http"}, receive, send)
    return messages


def body(messages: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages)


async def test_async_and_sync_generators_and_a_background_task() -> None:
    async def items() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    def sync_items() -> Iterator[str]:
        yield from ("a", "b")

    ran: list[int] = []
    for made in (items(), sync_items(), ["a", "b"]):
        task = BackgroundTask(ran.append, 1)
        messages = await sent(mesh.sse(made, headers={"x-more": "1"}, background=task))
        assert body(messages) == b"data: a\n\ndata: b\n\n"
        head = dict(messages[0]["headers"])
        assert head[b"content-type"].startswith(b"text/event-stream") and head[b"x-more"] == b"1"
        assert head[b"cache-control"] == b"no-store" and messages[-1] == {**messages[-1], "more_body": False}
    assert ran == [1, 1, 1]


async def test_what_raises_before_the_first_event_has_sent_nothing() -> None:
    async def items() -> AsyncIterator[str]:
        raise KeyError("early")
        yield ""

    messages: list[Message] = []
    with pytest.raises(KeyError):
        messages = await sent(mesh.sse(items()))
    assert messages == []


async def test_a_pause_is_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        await go_on.wait()
        yield "late"

    async def watched(message: Message) -> None:
        seen.append(message)
        if len(seen) == 4:
            go_on.set()

    seen: list[Message] = []
    await mesh.sse(items(), ping_s=0.001)({"type": "http"}, lambda: asyncio.sleep(0, {}), watched)
    assert body(seen).startswith(b": ping\n\n: ping\n\n") and body(seen).endswith(b"data: late\n\n")


async def test_a_client_that_leaves_ends_the_generator() -> None:
    made = 0
    ended = False

    async def items() -> AsyncIterator[int]:
        nonlocal made, ended
        try:
            while True:
                made += 1
                yield made
        finally:
            ended = True

    await sent(mesh.sse(items()), until=3)
    assert ended and made <= 6, "it is at most a few items ahead of who reads"
