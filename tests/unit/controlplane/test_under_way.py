"""Two changes at once: which one has to wait, and which is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.apply import applied, check_expected, check_under_way
from mesh.controlplane.handover import is_under_way
from mesh.errors import Conflict, RolloutUnderWay
from mesh.model import Application, ApplicationConfig, Awaited, Failure, Plan

CONFIG = ApplicationConfig("a", "/a", "m:app")
SERVING = Plan(1, CONFIG)
SETTLED = Application(config=CONFIG, revision=1, plan=SERVING, serving=SERVING)
ROLLING = replace(SETTLED, config=replace(CONFIG, import_path="m:new"), revision=2)
NEXT = replace(CONFIG, import_path="m:next")


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        (SETTLED, False),
        (ROLLING, True),
        (Application(config=CONFIG, revision=1), True),
        (replace(SETTLED, awaits=(Awaited("b", 1),)), True),
        (replace(SETTLED, awaits=(Awaited("b", 1),), leaving=True), True),
        (replace(ROLLING, failure=Failure("no")), False),
        (replace(ROLLING, failure=Failure("no"), hold_on_failure=True), False),
        (replace(ROLLING, paused=True), False),
        (replace(ROLLING, deleting=True), False),
    ],
)
def test_what_is_under_way(application: Application, expected: bool) -> None:
    assert is_under_way(application) is expected


def check(*configs: ApplicationConfig, keep_others: bool = False, **stored: Application) -> None:
    check_under_way(applied(configs, stored, keep_others=keep_others, applied_at=0.0), stored)


def test_a_change_of_what_is_under_way_is_refused() -> None:
    with pytest.raises(RolloutUnderWay, match="'a' is on its way to revision 2") as caught:
        check(NEXT, a=ROLLING)
    assert caught.value.revisions == {"a": 2}
    check(NEXT, a=SETTLED)
    check(ROLLING.config, a=ROLLING)
    check(NEXT, a=replace(ROLLING, paused=True))


def test_it_may_not_be_left_out_but_others_may_change() -> None:
    other = replace(CONFIG, name="b", route_prefix="/b")
    with pytest.raises(RolloutUnderWay):
        check(other, a=ROLLING)
    check(other, keep_others=True, a=ROLLING)


def test_what_goes_already_may_be_left_out_again_but_not_be_kept() -> None:
    leaving = replace(SETTLED, leaving=True, awaits=(Awaited("b", 1),))
    other = ApplicationConfig("b", "/b", "m:app")
    coming = Application(config=other, revision=1)
    check(other, a=leaving, b=coming)
    with pytest.raises(RolloutUnderWay):
        check(CONFIG, keep_others=True, a=leaving, b=coming)


def test_what_was_expected() -> None:
    result = applied([NEXT], {"a": SETTLED}, keep_others=False, applied_at=0.0)
    check_expected(result, {"a": SETTLED}, {"a": 1, "other": 7})
    with pytest.raises(Conflict, match="is at revision 1, not at 3"):
        check_expected(result, {"a": SETTLED}, {"a": 3})
    made = applied([NEXT], {}, keep_others=False, applied_at=0.0)
    with pytest.raises(Conflict, match="is gone, not at 3"):
        check_expected(made, {}, {"a": 3})
    same = applied([CONFIG], {"a": SETTLED}, keep_others=False, applied_at=0.0)
    check_expected(same, {"a": SETTLED}, {"a": 3})
