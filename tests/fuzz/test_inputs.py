"""A failing input can be made again: from the seed and its number, or from what was printed."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from tests.fuzz.http_mutations import Http, start
from tests.fuzz.inputs import Failed, Fuzz, Make, shown
from tests.fuzz.pipes import CalleePipe, Framing, LinkPipe
from tests.fuzz.targets import EVERYTHING, Kind, Requests
from tests.support.replicas import ROOT

COUNT = 60


def makers(fuzz: Fuzz) -> dict[str, Make[Any]]:
    kind = Kind(EVERYTHING, fuzz.random("inputs"))
    http = Http([start("POST", "/a", b"x"), start("GET", "/b?c=d")], {}, ["c"])
    return {
        "wire": kind.wire,
        "json": kind.json,
        "requests": Requests(kind).make,
        "framing": Framing(kind.wire).make,
        "http": http,
    }


def made(fuzz: Fuzz, count: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}

    def keep(name: str, value: object) -> str:
        found.setdefault(name, []).append(shown(value))
        return "kept"

    for name, make in makers(fuzz).items():
        fuzz.run(name, count, make, lambda value, name=name: keep(name, value))  # type: ignore[misc]
    return found


def digests(fuzz: Fuzz, count: int = COUNT) -> dict[str, str]:
    """Return a digest of the first COUNT inputs of each target."""
    return {name: sha256("".join(inputs[:COUNT]).encode()).hexdigest() for name, inputs in made(fuzz, count).items()}


def test_a_seed_gives_the_same_inputs_in_another_process_and_in_a_longer_run() -> None:
    """Whatever order sets and maps have there."""
    code = "from tests.fuzz.test_inputs import *; print(json.dumps(digests(Fuzz(1, 0, 0), COUNT * 2)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=50).stdout
    first = digests(Fuzz(1, 0, 0))
    assert json.loads(said) == first
    assert not set(digests(Fuzz(2, 0, 0)).values()) & set(first.values())


async def test_frames_follow_from_the_seed_too() -> None:
    for kind in (CalleePipe, LinkPipe):
        pipes = [kind(Random("1")) for _ in range(2)]
        one, other = (
            [pipe.make(chance) for _ in range(COUNT)] for pipe, chance in zip(pipes, map(Random, "11"), strict=True)
        )
        assert one == other
        for pipe in pipes:
            await pipe.close()


async def test_a_failure_says_how_to_repeat_it() -> None:
    def check(value: object) -> str:
        raise ValueError("wrong")

    async def check_live(value: object) -> str:
        return check(value)

    text = r"target: input 0 of seed 7: ValueError: wrong\ninput: \(hex 0aff, 5\)"
    with pytest.raises(Failed, match=text):
        Fuzz(7, 0, 0).run("target", 3, lambda random: (b"\x0a\xff", 5), check)
    with pytest.raises(Failed, match=text):
        await Fuzz(7, 0, 0).run_live("target", 3, 1, lambda random: (b"\x0a\xff", 5), check_live)
