from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.history import REVISIONS_MAX, Why, is_repeated, noted, rollback_target, told
from mesh.controlplane.records import HISTORY_BYTES_MAX, decode_history, encode_history
from mesh.errors import NotFound
from mesh.model import Application, ApplicationConfig, Failure, Plan, RuntimeEnv
from mesh.revision import RevisionCause, RevisionHistory, RevisionOutcome


class Story:
    """An application through its revisions."""

    def __init__(self) -> None:
        self.application: Application | None = None
        self.history = RevisionHistory()

    def accept(self, code: str, why: Why | None = None) -> Story:
        before = self.application
        config = ApplicationConfig("app", import_path=code)
        if before is None or before.deleting:
            after = Application(config=config, revision=before.revision + 1 if before else 1)
        else:
            after = replace(before, config=config, revision=before.revision + 1, failure=None)
        self.history = noted(self.history, before, after, why or Why())
        self.application = after
        return self

    def serve(self) -> Story:
        assert self.application is not None
        plan = Plan(self.application.revision, self.application.config)
        self.application = replace(self.application, plan=plan, serving=plan)
        return self

    def fail(self) -> Story:
        return self.be(failure=Failure("ValueError: no"))

    def be(self, **fields: object) -> Story:
        assert self.application is not None
        self.application = replace(self.application, **fields)  # type: ignore[arg-type]
        return self

    def outcomes(self) -> dict[int, str]:
        assert self.application is not None
        return {r.revision: r.outcome.name for r in told(self.history, self.application)}

    def target(self, to_revision: int = 0) -> int:
        assert self.application is not None
        return rollback_target(self.history, self.application, to_revision).revision


def test_what_a_build_pinned_is_kept_for_a_rollback() -> None:
    story = Story().accept("m:a").serve()
    assert story.application is not None
    pinned = RuntimeEnv(working_dir="local:///one")
    plan = Plan(1, story.application.config, resolved_env=pinned)
    story.be(plan=plan, serving=plan).accept("m:b").serve().accept("m:c").serve()
    assert story.application is not None
    kept = {r.revision: r.resolved_env for r in told(story.history, story.application)}
    assert kept == {1: pinned, 2: None, 3: None}
    assert (
        rollback_target(decode_history("key", encode_history(story.history)), story.application, 1).resolved_env
        == pinned
    )


def test_what_becomes_of_revisions() -> None:
    story = Story().accept("m:a")
    assert story.outcomes() == {1: "DEPLOYING"}
    assert story.serve().outcomes() == {1: "SERVING"}
    story.accept("m:b").fail()
    assert story.outcomes() == {1: "SERVING", 2: "FAILED"}
    story.accept("m:c").be(paused=True)
    assert story.outcomes() == {1: "SERVING", 2: "FAILED", 3: "PAUSED"}
    story.accept("m:d").be(paused=False).serve()
    assert story.outcomes() == {1: "REPLACED", 2: "FAILED", 3: "SUPERSEDED", 4: "SERVING"}
    second = next(r for r in told(story.history, story.application or Application()) if r.revision == 2)
    assert second.message == "ValueError: no" and second.config.import_path == "m:b"


def test_one_that_was_never_accepted_does_not_count() -> None:
    story = Story().accept("m:a").serve()
    before, application = story.history, story.application
    story.accept("m:lost")
    story.application = application
    assert story.outcomes() == {1: "SERVING"}
    story.accept("m:b")
    assert story.outcomes() == {1: "SERVING", 2: "DEPLOYING"}
    assert len(story.history.revisions) == len(before.revisions) + 1


def test_what_is_older_than_its_history() -> None:
    serving = Plan(3, ApplicationConfig("app", import_path="m:a"))
    old = Application(config=ApplicationConfig("app", import_path="m:b"), revision=5, serving=serving)
    outcomes = [(r.revision, r.outcome) for r in told(RevisionHistory(), old)]
    assert outcomes == [(3, RevisionOutcome.SERVING), (5, RevisionOutcome.DEPLOYING)]
    assert rollback_target(RevisionHistory(), old, 0).revision == 3


def test_an_application_that_is_made_anew_has_no_past() -> None:
    story = Story().accept("m:a").serve().be(deleting=True).accept("m:b")
    assert story.outcomes() == {2: "DEPLOYING"}


def test_the_way_back_is_to_what_served_and_was_other() -> None:
    story = Story().accept("m:a").serve()
    with pytest.raises(NotFound, match="no earlier revision"):
        story.target()
    story.accept("m:b").fail().accept("m:c")
    assert story.target() == 1, "the rollout under way is left"
    story.serve()
    assert story.target() == 1, "one that failed is passed over"
    story.accept("m:c", Why(RevisionCause.RESTART)).serve()
    assert story.target() == 1, "a restart is no other config"
    story.accept("m:a", Why(RevisionCause.ROLLBACK)).serve()
    assert story.target() == 4, "and forth again"
    story.accept("m:bad").fail()
    assert story.target() == 4, "what serves is the goal again"
    story.be(hold_on_failure=True, plan=Plan(6, ApplicationConfig("app", import_path="m:bad")))
    assert story.target() == 5, "what is held is left for what serves"
    assert story.target(2) == 2
    with pytest.raises(NotFound, match="no revision 9; known are 1, 2, 3, 4, 5, 6"):
        story.target(9)


def test_a_call_that_is_repeated_is_known() -> None:
    story = Story().accept("m:a", Why(request_id="x"))
    assert story.application is not None
    assert is_repeated(story.history, story.application, "x")
    assert not is_repeated(story.history, story.application, "y")
    assert not is_repeated(story.history, replace(story.application, revision=2), "x")
    assert not is_repeated(Story().accept("m:a").history, story.application, "")


def test_what_served_is_not_pushed_out_by_what_failed() -> None:
    story = Story()
    for code in "abcdefg":
        story.accept(f"m:{code}").serve()
    for _ in range(2 * REVISIONS_MAX):
        story.accept("m:bad").fail()
    assert len(story.history.revisions) == REVISIONS_MAX
    assert [r.revision for r in story.history.revisions if r.served] == [3, 4, 5, 6, 7]
    assert story.target() == 6 and story.target(3) == 3


def test_history_is_bounded_in_number_and_bytes() -> None:
    story = Story()
    for i in range(REVISIONS_MAX + 5):
        story.accept(f"m:a{i}", Why(detail="x" * 10_000))
    assert len(story.history.revisions) == REVISIONS_MAX
    assert len(encode_history(story.history)) < 20_000
    for i in range(REVISIONS_MAX):
        story.accept("m" * 60_000 + str(i))
    value = encode_history(story.history)
    assert len(value) <= HISTORY_BYTES_MAX
    kept = decode_history("history/app", value).revisions
    assert kept == story.history.revisions[-len(kept) :] and len(kept) >= 4
