"""The revisions of an application that were: what is noted of them, what became of them, which one to go back to.

Owns the rules only. A revision is noted before it is accepted, by whoever makes it, so one beyond the application's own
was never accepted and does not count. What became of the newest, and of the one that serves, stands in the application
itself; it is written down when the next one comes. Pure. Called by `goal` and `revise`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mesh.controlplane.apply import goal
from mesh.controlplane.limits import bounded_line
from mesh.controlplane.rollout import is_held
from mesh.errors import NotFound
from mesh.model import Application, ApplicationConfig
from mesh.revision import Revision, RevisionCause, RevisionHistory, RevisionOutcome
from mesh.serving.options import shown

REVISIONS_MAX = 20
"""Kept of each application."""
SERVED_MAX = 5
"""Of these, the newest that served stay before all that failed: one has to be there to go back to."""
DETAIL_CHARACTERS_MAX = 200
REQUEST_ID_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Why:
    """Why a revision is made."""

    cause: RevisionCause = RevisionCause.DEPLOY
    detail: str = ""
    request_id: str = ""


def noted(history: RevisionHistory, before: Application | None, after: Application, why: Why) -> RevisionHistory:
    """Return the history with the revision of `after`, which comes in the place of `before`."""
    known: tuple[Revision, ...] = ()
    if before is not None and not before.deleting:
        known = told(history, before)
    new = Revision(
        revision=after.revision,
        config=after.config,
        accepted_at=after.applied_at,
        cause=why.cause,
        detail=why.detail[:DETAIL_CHARACTERS_MAX],
        request_id=why.request_id[:REQUEST_ID_CHARACTERS_MAX],
    )
    superseded = {RevisionOutcome.DEPLOYING, RevisionOutcome.PAUSED}
    closed = (replace(r, outcome=RevisionOutcome.SUPERSEDED) if r.outcome in superseded else r for r in known)
    return RevisionHistory(_kept((*closed, new)))


def _kept(revisions: tuple[Revision, ...]) -> tuple[Revision, ...]:
    surplus = max(0, len(revisions) - REVISIONS_MAX)
    served = {r.revision for r in [r for r in revisions if r.served][-SERVED_MAX:]}
    going = {r.revision for r in [r for r in revisions if r.revision not in served][:surplus]}
    return tuple(r for r in revisions if r.revision not in going)


def told(history: RevisionHistory, application: Application) -> tuple[Revision, ...]:
    """Return the accepted revisions, the oldest first, with what became of each as of now."""
    known = {r.revision: r for r in history.revisions if r.revision <= application.revision}
    # Applications that are older than their history have these two at least.
    serving = application.serving
    if serving is not None:
        known.setdefault(serving.revision, Revision(serving.revision, serving.config))
    own = Revision(application.revision, application.config, application.applied_at)
    known.setdefault(application.revision, own)
    return tuple(_with_outcome(known[number], application) for number in sorted(known))


def is_repeated(history: RevisionHistory, application: Application, request_id: str) -> bool:
    """Whether the newest revision is what this very request has made already."""
    own = (r for r in history.revisions if r.revision == application.revision)
    return bool(request_id) and any(r.request_id == request_id for r in own)


def rollback_target(history: RevisionHistory, application: Application, to_revision: int) -> Revision:
    """Return the revision to go back to: the one named, or with 0 the last one that served and is other than the goal.

    Raises NotFound.
    """
    name, known = application.config.name, told(history, application)
    if to_revision:
        for revision in known:
            if revision.revision == to_revision:
                return revision
        numbers = ", ".join(str(revision.revision) for revision in known)
        raise NotFound(f"application {shown(name)} has no revision {to_revision}; known are {numbers}", hint=_LIST)
    present, at = _present(application)
    for revision in reversed(known):
        if revision.served and revision.revision < at and revision.config != present:
            return revision
    raise NotFound(f"no earlier revision of application {shown(name)} served with another config", hint=_LIST)


_LIST = "meshctl history lists the revisions; name one with --to"


def _present(application: Application) -> tuple[ApplicationConfig, int]:
    """Return what is worked toward, and its revision; one that failed and is held is what to go back from."""
    if is_held(application):
        return application.config, application.revision
    config = goal(application) or application.config
    if application.failure is not None and application.serving is not None:
        return config, application.serving.revision
    return config, application.revision


def _with_outcome(revision: Revision, application: Application) -> Revision:
    number = revision.revision
    for plan in (application.serving, application.plan):
        if plan is not None and plan.revision == number:
            revision = replace(revision, resolved_env=plan.resolved_env)
    if application.serving is not None and number == application.serving.revision:
        return replace(revision, outcome=RevisionOutcome.SERVING, served=True, message="")
    if number != application.revision:
        return replace(revision, outcome=RevisionOutcome.REPLACED) if revision.served else revision
    if application.failure is not None:
        message = bounded_line(application.failure.message)
        return replace(revision, outcome=RevisionOutcome.FAILED, message=message)
    paused = application.paused
    return replace(revision, outcome=RevisionOutcome.PAUSED if paused else RevisionOutcome.DEPLOYING)
