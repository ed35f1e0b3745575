from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mesh import wire
from mesh.controlplane import published
from mesh.controlplane.publish import Endpoint, RoutedApplication, RoutedDeployment, Snapshot
from mesh.controlplane.published import Published
from mesh.model import Cors, Generation
from mesh.pipe.held_snapshot import HeldSnapshot, NotWhole
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb

NOTHING = Generation()


def application(name: str, *endpoints: str) -> RoutedApplication:
    deployment = RoutedDeployment("D", 1, 1, endpoints=tuple(Endpoint(e, e) for e in endpoints))
    return RoutedApplication(name, f"/{name}", "D", deployments=(deployment,))


def at(number: int) -> Generation:
    return Generation(7, number)


def told(state: Published, known: Generation = NOTHING) -> pb.Snapshot:
    message = state.since(known)
    assert message is not None
    return message.snapshot


def names(snapshot: pb.Snapshot) -> list[str]:
    return [each.name for each in snapshot.applications]


def test_nothing_is_told_before_the_first_snapshot() -> None:
    assert Published().since(NOTHING) is None


def test_who_knows_an_earlier_one_is_told_what_changed_since_and_others_all() -> None:
    state = Published()
    state.take(Snapshot(applications=(application("a", "1"), application("b", "1"))), at(1), ())
    state.take(Snapshot(applications=(application("a", "1"), application("b", "2"))), at(2), ())
    state.take(Snapshot(applications=(application("b", "2"), application("c", "1"))), at(3), ())
    assert (names(told(state)), told(state).HasField("since")) == (["b", "c"], False)
    assert (names(told(state, at(2))), list(told(state, at(2)).gone)) == (["c"], ["a"])
    assert (names(told(state, at(1))), list(told(state, at(1)).gone)) == (["b", "c"], ["a"])
    assert told(state, at(2)).since.number == 2
    assert told(state, at(2)).generation.number == told(state).generation.number == 3


def test_a_message_is_made_once_for_all_who_know_the_same() -> None:
    state = Published()
    state.take(Snapshot(applications=(application("a", "1"),)), at(1), ())
    state.take(Snapshot(applications=(application("a", "2"),)), at(2), ())
    assert state.since(at(1)) is state.since(at(1))
    assert state.since(NOTHING) is state.since(NOTHING)


def test_only_so_many_that_are_gone_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "GONE_MAX", 1)
    state = Published()
    state.take(Snapshot(applications=(application("a"), application("b"), application("c"))), at(1), ())
    state.take(Snapshot(applications=(application("b"), application("c"))), at(2), ())
    state.take(Snapshot(applications=(application("c"),)), at(3), ())
    assert not told(state, at(1)).HasField("since"), "what went since then is not all known any more"
    assert list(told(state, at(2)).gone) == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_what_changed_makes_the_whole_again_however_much_was_missed(seed: int) -> None:
    rng, state, held = random.Random(seed), Published(), HeldSnapshot()
    known, now = NOTHING, Snapshot()
    for number in range(1, 60):
        routed = {each.name: each for each in now.applications}
        name = rng.choice("abcdef")
        if name in routed and rng.random() < 0.4:
            del routed[name]
        else:
            routed[name] = application(name, *map(str, range(rng.randrange(3))))
        cors = Cors(("*",), (), 1, allow_credentials=False) if rng.random() < 0.3 else None
        now = Snapshot(
            applications=tuple(routed[each] for each in sorted(routed)), request_timeout_s=number % 3, cors=cors
        )
        if not state.is_news(now):
            continue
        state.take(now, at(number), ())
        if rng.random() < 0.5:  # a slow one gets the newest only
            sent = pb.Snapshot()
            sent.CopyFrom(told(state, known))
            whole = held.take(sent)
            assert whole == wire.to_proto(replace(now, generation=at(number)), pb.Snapshot)
            known = at(number)


def test_what_does_not_go_with_what_is_held_is_not_taken() -> None:
    held = HeldSnapshot()
    change = pb.Snapshot()
    change.since.number = 4
    with pytest.raises(NotWhole):
        held.take(change)
    held.take(pb.Snapshot(generation=deployment_pb2.Generation(epoch=1, number=3)))
    with pytest.raises(NotWhole):
        held.take(change)
