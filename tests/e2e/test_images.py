"""`examples/images`: pictures go from the ingress to a model that looks at many at once, and on to the last step."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys

import httpx
import pytest

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, ROOT, MeshProcess

pytestmark = pytest.mark.long

IMAGES = EXAMPLES / "images"
LABELS = ("horizontal stripes", "vertical stripes", "diagonal stripes", "checkers")


def drawn(label: str, seed: int) -> bytes:
    command = [sys.executable, str(IMAGES / "draw.py"), label, str(seed)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30).stdout


async def test_pictures_are_looked_at_together() -> None:
    pictures = {label: drawn(label, seed) for seed, label in enumerate(LABELS)}
    with MeshProcess("run", "images:app", "--working-dir", str(IMAGES), *FREE_PORTS) as mesh:
        async with httpx.AsyncClient(base_url=mesh.http, timeout=30) as client:
            alone = (await client.post("/", content=pictures["checkers"])).json()
            assert alone["batch"] == 1 and alone["label"] == "checkers"
            asked = [label for label in LABELS for _ in range(8)]
            answers = await asyncio.gather(*(client.post("/", content=pictures[label]) for label in asked))
            said = [answer.json() for answer in answers]
            assert [each["label"] for each in said] == asked
            assert 1 < max(each["batch"] for each in said) <= 16
            grey = await client.post("/", content=b"P5\n32 32\n255\n" + bytes(32 * 32))
            assert grey.json() == {"label": None, "score": 0.0, "batch": 1}
            wrong = await client.post("/", content=b"P6\n1 1\n255\n123")
            assert (wrong.status_code, wrong.json()) == (400, {"error": "not a binary PGM with 255 greys"})

        (shown,) = re.findall(r"^\{.*\}$", (IMAGES / "README.md").read_text(), re.MULTILINE)
        answer = httpx.post(mesh.http, content=drawn("vertical stripes", 0), timeout=30)
        assert json.loads(shown) == answer.json()
