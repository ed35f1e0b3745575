"""A pipeline for images: an ingress reads them, a model looks at many at once, a last step says what it saw.

meshctl run images:app --working-dir examples/images

What comes is a picture as binary PGM (P5); what is told is which pattern it shows. The "model" compares it with drawn
patterns: arithmetic with arrays that is cheaper for many pictures together, as it is on an accelerator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import mesh

SIDE = 32
STEP = 8
LABELS = ("horizontal stripes", "vertical stripes", "diagonal stripes", "checkers")
Pixels = NDArray[np.uint8]


@dataclass
class Seen:
    """What the model says of one picture."""

    scores: NDArray[np.float32]
    batch: int
    """How many it looked at together."""


def read_pgm(data: bytes) -> Pixels:
    """Return the pixels of a binary PGM. Raises ValueError."""
    head = re.match(rb"P5\s+(?:#[^\n]*\s+)*(\d{1,4})\s+(\d{1,4})\s+255\s", data)
    if head is None:
        raise ValueError("not a binary PGM with 255 greys")
    width, height = int(head[1]), int(head[2])
    if (height, width) != (SIDE, SIDE) or len(data) - head.end() != SIDE * SIDE:
        raise ValueError(f"not a picture of {SIDE} x {SIDE} pixels")
    return np.frombuffer(data, np.uint8, offset=head.end()).reshape(SIDE, SIDE)


def patterns() -> NDArray[np.float32]:
    """Return each pattern at each place where it may begin: label x place x pixel, of length 1 each."""
    y, x = np.mgrid[:SIDE, :SIDE]
    drawn = [
        [(y + at) // (STEP // 2) % 2, (x + at) // (STEP // 2) % 2, (x + y + at) // (STEP // 2) % 2,
         (y // (STEP // 2) + (x + at) // (STEP // 2)) % 2]
        for at in range(STEP)
    ]  # fmt: skip
    flat = np.array(drawn, np.float32).swapaxes(0, 1).reshape(len(LABELS), STEP, -1)
    flat -= flat.mean(axis=-1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


@mesh.deployment(max_ongoing_requests=64, max_queued_requests=64)
class Model:
    def __init__(self) -> None:
        self.patterns = patterns()

    @mesh.batch(max_batch_size=16, batch_wait_timeout_s=0.02)
    def __call__(self, pictures: list[Pixels]) -> list[Seen]:
        flat = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6
        scores = np.einsum("np,lap->nla", flat, self.patterns).max(axis=2)
        return [Seen(each, len(pictures)) for each in scores]


@mesh.deployment
class Words:
    def __init__(self, sure: float) -> None:
        self.sure = sure

    def describe(self, seen: Seen) -> dict[str, Any]:
        best = int(seen.scores.argmax())
        score = round(float(seen.scores[best]), 3)
        return {"label": LABELS[best] if score >= self.sure else None, "score": score, "batch": seen.batch}


@mesh.deployment
class Ingress:
    def __init__(self, model: mesh.DeploymentHandle, words: mesh.DeploymentHandle) -> None:
        self.model = model
        self.words = words

    async def __call__(self, request: Request) -> Response:
        try:
            picture = read_pgm(await request.body())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        # Not waited for: what the model says goes on to the last step when it is there.
        seen = self.model.remote(picture)
        return JSONResponse(await self.words.describe.remote(seen))


app = Ingress.bind(Model.bind(), Words.bind(sure=0.5))
