from __future__ import annotations

import pytest

from mesh.controlplane.mirror import Mirror
from mesh.controlplane.records import application_key, encode_application, encode_replica, replica_key
from mesh.controlplane.store import Batch, Event, Item, Listing
from mesh.errors import Unreachable
from mesh.model import Application, ApplicationConfig, Replica

KEY = application_key("a")


def value(revision: int) -> bytes:
    return encode_application(Application(config=ApplicationConfig("a"), revision=revision))


def put(revision: int, key: str = KEY) -> Batch:
    return Batch(revision, (Event(key, value(revision), revision),))


def removal(revision: int) -> Batch:
    return Batch(revision, (Event(KEY, None, revision),))


def test_listing_and_watch() -> None:
    one = Replica("r", "a", "Echo", worker_id="w")
    mirror = Mirror(Listing(5, (Item(KEY, value(3), 3), Item(replica_key("r"), encode_replica(one), 4))))
    assert mirror.applications["a"].revision == 3
    assert mirror.replicas == {"r": one}
    assert (mirror.listed, mirror.revision_of(KEY), mirror.revision_of("x")) == (5, 3, 0)
    assert mirror.apply(put(6))
    assert mirror.applications["a"].revision == 6
    assert mirror.apply(removal(7))
    assert mirror.applications == {}


def test_own_commits_are_not_news_a_second_time() -> None:
    mirror = Mirror(Listing(5, ()))
    mirror.committed({KEY: value(6)}, 6)
    assert not mirror.apply(put(6))
    mirror.committed({KEY: None}, 8)
    assert mirror.revision_of(KEY) == 0
    assert not mirror.apply(put(7)), "late news of before the removal"
    assert mirror.applications == {}
    assert not mirror.apply(removal(8))
    mirror.committed({KEY: value(9)}, 9)
    assert mirror.applications["a"].revision == 9


def test_a_later_listing_removes_what_is_gone_and_keeps_what_is_newer() -> None:
    mirror = Mirror(Listing(5, (Item(KEY, value(3), 3),)))
    mirror.committed({application_key("b"): value(8)}, 8)
    mirror.load(Listing(7, ()), 0)
    assert set(mirror.applications) == {"b"}
    mirror.load(Listing(6, (Item(KEY, value(3), 3),)), 0)
    assert set(mirror.applications) == {"b"}, "an older listing is no news"


def test_a_listing_tells_nothing_of_a_commit_of_unknown_outcome_after_it_was_asked_for() -> None:
    mirror = Mirror(Listing(5, ()))
    assert not mirror.is_behind
    mirror.unknown_outcomes += 1
    first = mirror.unknown_outcomes
    mirror.unknown_outcomes += 1
    second = mirror.unknown_outcomes
    mirror.load(Listing(6, ()), first)
    assert mirror.is_behind
    mirror.load(Listing(7, ()), second)
    assert not mirror.is_behind
    mirror.load(Listing(6, ()), first)
    assert not mirror.is_behind, "the answers to two questions may come in any order"


def test_other_keys_are_no_news() -> None:
    mirror = Mirror(Listing(1, ()))
    assert not mirror.apply(Batch(2, (Event("leader", b"host:1", 2),)))


def test_what_cannot_be_read_is_an_error_not_an_absence() -> None:
    with pytest.raises(Unreachable, match="applications/a"):
        Mirror(Listing(5, (Item(KEY, b"\xff\xff\xff", 3),)))
