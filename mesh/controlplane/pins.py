"""What a build pinned of a runtime environment: the bytes behind a URL that has no digest, the versions of packages.

Owns when pins hold: from the first build of an environment on, for as long as the config asks for the same one. So
all replicas run the same code wherever they are, a revision that changes something else brings no other code along, and
a rollback brings back the code that ran then. What never served pins nothing: who mends it deploys the same config
again. Pure. Called by `builds`, `execute` and `publish`.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.model import Application, ApplicationConfig, Failure, Plan, RuntimeEnv
from mesh.packages.place import Bucket, Download, PlaceError, parse, places
from mesh.packages.requirements import requirement_problems


def pinned_config(plan: Plan) -> ApplicationConfig:
    """Return the config that replicas of a plan run by."""
    return plan.config if plan.resolved_env is None else replace(plan.config, runtime_env=plan.resolved_env)


def known(application: Application) -> RuntimeEnv | None:
    """Return the pins that an earlier build made for what the config asks for now; None if there are none."""
    wanted = application.config
    if application.pinned_env is not None:
        return application.pinned_env
    for plan in (application.plan, application.serving):
        same = plan is not None and plan.config.runtime_env == wanted.runtime_env
        if plan is not None and same and plan.config.code_version == wanted.code_version:
            return plan.resolved_env
    return None


def refusal(written: RuntimeEnv, resolved: RuntimeEnv) -> Failure | None:
    """Return why `resolved` cannot be what a build made of `written`, or None. It is a worker's word."""
    before, after = dict(places(written)), dict(places(resolved))
    same = before.keys() == after.keys() and all(_pins(before[field], after[field]) for field in before)
    variables = (
        written.env_vars == resolved.env_vars
        and written.env_vars_from_env == resolved.env_vars_from_env
        and written.env_vars_from_file == resolved.env_vars_from_file
    )
    packages = bool(written.pip) == bool(resolved.pip) and not any(requirement_problems(resolved.pip, at="pip"))
    if same and variables and packages:
        return None
    return Failure("the worker built another environment than it was asked to", "runtime_env", "look at its log")


def _pins(written: str, resolved: str) -> bool:
    if written == resolved:
        return True
    try:
        before, after = parse(written), parse(resolved)
    except PlaceError:
        return False
    if not isinstance(before, (Download, Bucket)) or not isinstance(after, (Download, Bucket)):
        return before == after
    return before == after or (not before.sha256 and replace(after, sha256="") == before)
