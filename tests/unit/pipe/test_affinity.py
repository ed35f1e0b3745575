"""Which backends have which models, as they tell and as is to be expected; bounded, whatever is asked for."""

from __future__ import annotations

from mesh.pipe.affinity import EXPECTED_MAX, TOLD_MAX, Affinity


def test_what_backends_tell_counts_until_they_tell_otherwise() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.told("a", ["m", "n"])
    affinity.told("b", ["n"])
    assert list(affinity.having("n")) == ["a", "b"] and list(affinity.having("m")) == ["a"]
    affinity.told("a", ["m"])
    assert list(affinity.having("n")) == ["b"] and affinity.count("a") == 1
    affinity.forget("b")
    assert not affinity.having("n") and affinity.count("b") == 0


def test_what_was_sent_is_expected_until_it_is_told() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.sent("a", "m")
    affinity.told("a", ["n"])
    assert list(affinity.having("m")) == ["a"] and affinity.count("a") == 2
    affinity.told("a", ["n", "m"])
    assert affinity.count("a") == 2
    affinity.told("a", ["n"])
    assert not affinity.having("m"), "it was loaded, and is not any more"
    affinity.sent("a", "n")
    assert affinity.count("a") == 1


def test_ids_that_callers_make_up_take_no_more_than_so_much() -> None:
    affinity: Affinity[str] = Affinity()
    for i in range(EXPECTED_MAX + 50):
        affinity.sent("a", f"m{i}")
    assert affinity.count("a") == EXPECTED_MAX and not affinity.having("m49") and affinity.having("m50")
    affinity.told("b", (f"n{i}" for i in range(TOLD_MAX + 50)))
    assert affinity.count("b") == TOLD_MAX and not affinity.having("n49") and affinity.having("n50")
    affinity.told("b", ["x" * 201])
    assert affinity.count("b") == 0, "no model has such an id"
    affinity.forget("a")
    affinity.forget("b")
    assert not affinity._having and not affinity._told and not affinity._expected
