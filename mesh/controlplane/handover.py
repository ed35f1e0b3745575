"""What one apply takes away, and when: applications that it leaves out, routes that change hands.

Owns the rule that an apply takes when all that it brings is ready, else not at all: which applications wait, for which
others, and what stands in the way. Decides on stored values; whether an application is ready is seen by `reconcile`.
Why: docs/decisions/0005-an-apply-takes-last.md. Pure. Called by `apply`, `validate`, `reconcile` and `publish`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mesh.model import Application, Awaited, Failure
from mesh.reasons import Reason
from mesh.serving.options import shown


def awaited(applications: Iterable[Application]) -> tuple[Awaited, ...]:
    """Return which of the applications of an apply have not come true yet: what the others have to wait for."""
    by_name = sorted(applications, key=lambda application: application.config.name)
    return tuple(Awaited(a.config.name, a.revision) for a in by_name if not is_settled(a))


def is_settled(application: Application) -> bool:
    """Whether the newest revision was once wholly ready."""
    return application.serving is not None and application.serving.revision == application.revision


def is_under_way(application: Application) -> bool:
    """Whether a rollout, or the end of an application, is on its way, so that another change would be a mix of two.

    One that failed, or that stands still, waits for somebody to change something.
    """
    if application.deleting or application.paused:
        return False
    if application.leaving:
        return True
    return application.failure is None and (bool(application.awaits) or not is_settled(application))


def holds(application: Application | None) -> frozenset[str]:
    """Return the routes that an application has, or may have while its newest revision comes."""
    if application is None or application.deleting:
        return frozenset()
    routes = {application.serving.config.route_prefix} if application.serving else set()
    if application.failure is None and (application.leaving or not application.awaits):
        routes.add(application.config.route_prefix)
    return frozenset(routes - {""})


def waiting(after: Mapping[str, Application], stored: Mapping[str, Application]) -> frozenset[str]:
    """Return which applications of an apply must wait for the others of it, because a route changes hands.

    `after` has the applications that the apply names, as they will be; `stored` all that there are.
    """
    wanted = {application.config.route_prefix: name for name, application in after.items()}
    holders = {(route, name) for name, application in stored.items() for route in holds(application)}
    changes_hands = {(taker, holder) for route, holder in holders if (taker := wanted.get(route, holder)) != holder}
    return frozenset(name for pair in changes_hands for name in pair if name in after)


def obstacle(application: Application, applications: Mapping[str, Application]) -> str:
    """Return why what an application waits for will not come, or "" while it may."""
    for item in application.awaits:
        other = applications.get(item.application)
        if other is None or other.deleting or other.leaving:
            return f"application {item.application!r}, of the same deploy, was deleted"
        if other.failure is not None:
            return f"application {item.application!r}, of the same deploy, failed"
    return ""


def failure(application: Application, why: str) -> Failure:
    """Return the failure of a revision whose route cannot change hands."""
    route = shown(application.config.route_prefix or "null")
    text, hint = f"it does not get the route {route}: {why}", "mend that, then deploy again"
    return Failure(text, "route_prefix", hint, reason=Reason.APPLICATION_FAILED)


def handed_over(application: Application) -> Application:
    """Return an application for which the wait is over: gone if it was leaving, else free to take its route."""
    return replace(application, awaits=(), leaving=False, deleting=application.leaving)
