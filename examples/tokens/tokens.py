"""Tokens as they are made, as server-sent events: what a language model's API does.

meshctl run tokens:app
curl -N 'localhost:8000/?prompt=tell+me+a+story'
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

import mesh

STORY = ("Once upon a time there was a queue, and it was bounded, and everybody in it", "was served in time.")
WORDS = " ".join(STORY).split()


@mesh.deployment(max_ongoing_requests=4, max_queued_requests=8)
class Tokens:
    """Stands for a model. What a client does not read is not made, and a client that leaves ends the making."""

    async def __call__(self, request: Request) -> Response:
        prompt = request.query_params.get("prompt", "")
        count = min(int(request.query_params.get("count", len(WORDS))), 10_000)
        return mesh.sse(self.tokens(prompt, count))

    async def tokens(self, prompt: str, count: int) -> AsyncIterator[mesh.ServerSentEvent]:
        for number in range(count):
            await asyncio.sleep(0.01)  # where a model would think
            yield mesh.ServerSentEvent({"token": WORDS[number % len(WORDS)]}, event="token", id=str(number))
        yield mesh.ServerSentEvent({"prompt_words": len(prompt.split()), "tokens": count}, event="done")


app = Tokens.bind()
