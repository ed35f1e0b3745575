"""What is called slower is beyond what one process strays from another, and each time it is measured."""

from __future__ import annotations

import pytest

from benchmarks import comparison
from benchmarks.comparison import Figure


def test_a_figure_is_the_median_and_how_far_the_upper_quartile_is_above_it() -> None:
    told = comparison.figure([2.0, 9.0, 1.9, 2.2, 1.8])
    assert (told.ratio, round(told.spread, 6)) == (2.0, 0.1)
    assert comparison.figure([3.0]) == Figure(3.0, 0.0)


@pytest.mark.parametrize(("spread", "allowed"), [(0.0, 1.1), (0.03, 1.1), (0.2, 1.6)])
def test_a_part_that_strays_more_is_allowed_more(spread: float, allowed: float) -> None:
    assert Figure(1.0, spread).allowed == pytest.approx(allowed)


def test_the_part_that_got_slower_is_named_with_how_much_and_comes_first() -> None:
    baseline = {"head": Figure(0.5, 0.01), "frames": Figure(4.0, 0.02), "array": Figure(1.0, 0.3)}
    found = comparison.changes(baseline, {"head": [0.5, 0.49, 0.51], "frames": [6.0, 6.1, 5.9], "array": [1.8]})
    assert [(change.part, change.slower) for change in found] == [("frames", True), ("array", False), ("head", False)]
    assert comparison.line(found[0]) == "frames: 1.50 × the baseline's time (allowed: 1.10 ×)"


def test_what_got_faster_is_no_finding() -> None:
    (change,) = comparison.changes({"head": Figure(0.5, 0.01)}, {"head": [0.2]})
    assert not change.slower


def test_a_part_is_slower_only_if_it_is_so_each_time() -> None:
    before = {"head": [0.9, 0.8, 0.9], "frames": [6.0, 6.0, 6.0], "array": [1.0]}
    again = {"head": [0.5, 0.5, 0.6], "frames": [6.2, 6.1, 6.3]}
    assert comparison.least(before, again) == {"head": [0.5, 0.5, 0.6], "frames": [6.0, 6.0, 6.0]}


def test_parts_that_only_one_has_are_told() -> None:
    baseline = {"old": Figure(1.0, 0.0), "head": Figure(1.0, 0.0)}
    assert comparison.unknown(baseline, {"head": [1.0], "new": [1.0]}) == ["new", "old"]
    assert comparison.unknown(baseline, {"head": [1.0], "old": [1.0]}) == []


COUNTED = {
    "GET": {"tasks: serve": 2, "turns of the loop": 7, "instructions": 4000, "instructions: mesh/pipe/link": 195}
}


def grown(**changed: float) -> list[str]:
    names = {"task": "tasks: watch", "turns": "turns of the loop", "all": "instructions"}
    now = {**COUNTED["GET"], **{names.get(name, f"instructions: {name}"): value for name, value in changed.items()}}
    return [str(each) for each in comparison.differences(COUNTED, {"GET": now}) if each.grown]


def test_one_task_or_turn_more_is_a_finding_by_its_name() -> None:
    assert grown(task=1) == ["GET: tasks: watch: 0 → 1 a request"]
    assert grown(turns=8) == ["GET: turns of the loop: 7 → 8 a request"]
    assert grown() == grown(turns=6) == []


def test_instructions_are_judged_in_all_and_told_by_module() -> None:
    changed = {"all": 4100.0, "mesh/pipe/link": 295.0}
    assert grown(**changed) == ["GET: instructions: 4000 → 4100 a request"]
    now = {"GET": {**COUNTED["GET"], "instructions": 4100, "instructions: mesh/pipe/link": 295}}
    told = [str(each) for each in comparison.differences(COUNTED, now) if each.part_of]
    assert told == ["GET: instructions: mesh/pipe/link: 195 → 295 a request"]
    assert grown(all=4010) == []
