"""Which entries of a cache go."""

from __future__ import annotations

from mesh.worker.environments.retention import KEPT_S, Entry, surplus

NOW = 10 * KEPT_S


def entries(*sizes: int) -> list[Entry]:
    """Entries a, b, c…, the longest unused first."""
    return [Entry("abcdef"[i], size, NOW - 100 + i) for i, size in enumerate(sizes)]


def test_nothing_goes_while_there_is_room() -> None:
    assert surplus(entries(1, 2, 3), (), 6, NOW) == []


def test_the_longest_unused_go_first() -> None:
    assert surplus(reversed(entries(1, 2, 3)), (), 5, NOW) == ["a"]
    assert surplus(entries(1, 2, 3), (), 4, NOW) == ["a", "b"]
    assert surplus(entries(1, 2, 3), (), 0, NOW) == ["a", "b", "c"]


def test_what_is_in_use_stays() -> None:
    assert surplus(entries(1, 2, 3), {"a", "c"}, 0, NOW) == ["b"]


def test_what_nobody_asked_for_in_a_long_time_goes() -> None:
    old = [Entry("old", 1, NOW - KEPT_S - 1), Entry("used", 1, NOW - KEPT_S - 1), *entries(1)]
    assert surplus(old, {"used"}, 100, NOW) == ["old"]
