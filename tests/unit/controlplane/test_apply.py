from __future__ import annotations

from dataclasses import replace

from mesh.controlplane.apply import applied, deleted
from mesh.model import Application, ApplicationConfig, Change, Failure, Plan

CONFIG = ApplicationConfig("a", "/a", "m:app")
PLAN = Plan(revision=1, config=CONFIG)


def test_created() -> None:
    (change,) = applied([CONFIG], {}, keep_others=False, applied_at=7.0)
    assert (change.revision, change.change) == (1, Change.CREATED)
    assert change.application == Application(config=CONFIG, revision=1, applied_at=7.0)


def test_unchanged_writes_nothing() -> None:
    there = Application(config=CONFIG, revision=4)
    (change,) = applied([CONFIG], {"a": there}, keep_others=False, applied_at=7.0)
    assert (change.revision, change.change, change.application) == (4, Change.UNCHANGED, None)


def test_updated_keeps_what_runs() -> None:
    there = Application(config=CONFIG, revision=1, plan=PLAN, serving=PLAN)
    newer = replace(CONFIG, import_path="m:new")
    (change,) = applied([newer], {"a": there}, keep_others=False, applied_at=7.0)
    assert change.change is Change.UPDATED
    assert change.application == replace(there, config=newer, revision=2, applied_at=7.0)


def test_the_same_config_after_a_failure_is_a_new_revision() -> None:
    failed = replace(PLAN, revision=2)
    there = Application(config=CONFIG, revision=2, plan=failed, serving=PLAN, failure=Failure("no"))
    (change,) = applied([CONFIG], {"a": there}, keep_others=False, applied_at=7.0)
    assert (change.revision, change.change) == (3, Change.UPDATED)
    assert change.application is not None
    assert (change.application.failure, change.application.plan) == (None, PLAN)
    assert change.application.superseded == (failed,)


def test_others_are_deleted_unless_kept() -> None:
    there = {name: Application(config=replace(CONFIG, name=name), revision=3) for name in ("a", "b", "c")}
    there["c"] = replace(there["c"], deleting=True)
    result = applied([CONFIG], there, keep_others=False, applied_at=0.0)
    assert [(c.name, c.change) for c in result] == [("a", Change.UNCHANGED), ("b", Change.DELETED)]
    assert len(applied([CONFIG], there, keep_others=True, applied_at=0.0)) == 1


def test_made_anew_while_it_is_deleted() -> None:
    there = Application(config=CONFIG, revision=3, plan=PLAN, serving=PLAN, deleting=True)
    (change,) = applied([CONFIG], {"a": there}, keep_others=False, applied_at=7.0)
    assert (change.revision, change.change) == (4, Change.CREATED)
    assert change.application == Application(config=CONFIG, revision=4, applied_at=7.0)


def test_deleting_twice_writes_once() -> None:
    there = Application(config=CONFIG, revision=3)
    once = deleted(there).application
    assert once == replace(there, deleting=True)
    assert deleted(once).application is None
