"""Mutated messages through what takes them: no way out of the converters but their own errors, and nothing kept.

A message is one of: a serialized message for a converter, a JSON text for it, a request (path, query, body), the frames
of a pipe. See `test_live` for those that go through a gateway.
"""

from __future__ import annotations

import gc

import psutil
import pytest

from tests.fuzz.inputs import Fuzz
from tests.fuzz.pipes import CalleePipe, Framing, LinkPipe
from tests.fuzz.targets import EVERYTHING, LEGACY, Converters, Kind, Requests

GROWTH_BYTES_MAX = 64 * 1024 * 1024


class Memory:
    """How much this process has grown since it was warm."""

    def __init__(self) -> None:
        gc.collect()
        self._before = psutil.Process().memory_info().rss

    def check(self) -> None:
        gc.collect()
        grown = psutil.Process().memory_info().rss - self._before
        assert grown < GROWTH_BYTES_MAX, f"grown by {grown} bytes"


@pytest.fixture(scope="module")
def everything_kind(fuzz: Fuzz) -> Kind:
    return Kind(EVERYTHING, fuzz.random(EVERYTHING))


@pytest.fixture(scope="module")
def legacy_kind(fuzz: Fuzz) -> Kind:
    return Kind(LEGACY, fuzz.random(LEGACY))


@pytest.fixture(params=["everything", "legacy"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.getfixturevalue(f"{request.param}_kind")
    return made


def test_messages_to_json(fuzz: Fuzz, kind: Kind) -> None:
    share = 26 if kind.descriptor.full_name == EVERYTHING else 8
    target, name = Converters(kind), f"wire to JSON {kind.descriptor.name}"
    fuzz.run(f"{name} (warm)", fuzz.messages // 400, kind.wire, target.from_wire)
    memory = Memory()
    outcomes = fuzz.run(name, fuzz.messages * share // 100, kind.wire, target.from_wire)
    memory.check()
    assert min(outcomes["converted"], outcomes["no message"], outcomes["without a JSON form"]) > 0


def test_json_to_messages(fuzz: Fuzz, kind: Kind) -> None:
    share = 23 if kind.descriptor.full_name == EVERYTHING else 5
    target, name = Converters(kind), f"JSON to wire {kind.descriptor.name}"
    fuzz.run(f"{name} (warm)", fuzz.messages // 400, kind.json, target.from_json)
    memory = Memory()
    outcomes = fuzz.run(name, fuzz.messages * share // 100, kind.json, target.from_json)
    memory.check()
    assert min(outcomes["converted"], outcomes["refused"]) > 0


def test_requests_of_every_form(fuzz: Fuzz, everything_kind: Kind) -> None:
    target = Requests(everything_kind)
    fuzz.run("requests (warm)", fuzz.messages // 400, target.make, target.check)
    memory = Memory()
    outcomes = fuzz.run("requests", fuzz.messages * 22 // 100, target.make, target.check)
    memory.check()
    for wire in ("JsonWire", "ConnectWire", "WebWire"):
        assert outcomes[f"taken {wire}"] and outcomes[f"refused {wire}"], outcomes


def test_framing(fuzz: Fuzz, everything_kind: Kind) -> None:
    target = Framing(everything_kind.wire)
    fuzz.run("framing", fuzz.messages * 3 // 100, target.make, target.check)


async def test_frames_to_a_replica(fuzz: Fuzz) -> None:
    target = CalleePipe(fuzz.random("callee"))
    await fuzz.run_live("frames to a replica", fuzz.messages * 4 // 100, 1, target.make, target.check)
    await target.close()


async def test_frames_to_a_gateway(fuzz: Fuzz) -> None:
    target = LinkPipe(fuzz.random("link"))
    await fuzz.run_live("frames to a gateway", fuzz.messages * 4 // 100, 1, target.make, target.check)
    await target.close()
