"""What builds pin of environments, and how long that holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.pins import known, pinned_config, refusal
from mesh.model import ApplicationConfig, ReplicaState, RuntimeEnv
from tests.support.control_world import World, config

URL = "https://example.com/app.zip"
ONE, TWO = (f"{URL}#sha256={digit * 64}" for digit in "12")
ENV = RuntimeEnv(working_dir=URL, pip=("numpy",), env_vars={"A": "1"})
PINNED = replace(ENV, working_dir=ONE, pip=("numpy==2.0",))


def wanted(**changed: object) -> ApplicationConfig:
    return replace(config(**changed), runtime_env=ENV)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "resolved",
    [
        ENV,
        PINNED,
        replace(PINNED, pip=("numpy==2.0", "other==1 ; python_version > '3'")),
    ],
)
def test_what_a_build_may_pin(resolved: RuntimeEnv) -> None:
    assert refusal(ENV, resolved) is None


@pytest.mark.parametrize(
    "resolved",
    [
        RuntimeEnv(),
        replace(PINNED, working_dir="https://example.com/evil.zip#sha256=" + "1" * 64),
        replace(PINNED, working_dir="local:///etc"),
        replace(PINNED, working_dir="nothing"),
        replace(PINNED, py_modules=("local:///etc",)),
        replace(PINNED, env_vars={"A": "1", "LD_PRELOAD": "x"}),
        replace(PINNED, env_vars_from_file={"S": "/etc/shadow"}),
        replace(PINNED, pip=()),
        replace(PINNED, pip=("-e .",)),
    ],
)
def test_a_worker_may_not_change_anything_else(resolved: RuntimeEnv) -> None:
    assert refusal(ENV, resolved) is not None
    assert refusal(replace(ENV, working_dir=TWO), replace(PINNED, working_dir=ONE)) is not None


def test_pins_hold_for_all_replicas_and_while_the_environment_is_the_same() -> None:
    world = World("w1")
    made = iter((PINNED, replace(PINNED, working_dir=TWO)))
    world.pins = lambda env: next(made)
    world.apply(wanted(num_replicas=1))
    world.settle()
    assert [spec.config.runtime_env for spec in world.workers["w1"].specs.values()] == [PINNED]
    first = set(world.replicas)
    application = world.applications["app"]
    assert application.config.runtime_env == ENV, "the config stays as it was written"
    assert application.plan is not None and pinned_config(application.plan).runtime_env == PINNED
    world.apply(wanted(num_replicas=2))
    assert known(world.applications["app"]) == PINNED
    world.settle()
    assert first < set(world.replicas), "more of the same, and no other code"
    world.apply(replace(wanted(num_replicas=2), code_version="2"))
    assert known(world.applications["app"]) is None
    world.settle()
    assert not first & set(world.replicas)


def test_a_revision_that_goes_back_runs_what_ran_then() -> None:
    world = World("w1")
    world.pins = lambda env: replace(PINNED, working_dir=TWO)
    world.apply(wanted())
    world.settle()
    world.apply(replace(wanted(), code_version="2"))
    back = world.applications["app"]
    world.applications["app"] = replace(back, pinned_env=PINNED)
    world.settle()
    assert [spec.config.runtime_env for spec in world.workers["w1"].specs.values()] == [PINNED]
    world.apply(replace(wanted(), code_version="3"))
    assert world.applications["app"].pinned_env is None


def test_a_revision_that_never_served_pins_nothing() -> None:
    world = World("w1")
    world.pins = lambda env: PINNED
    world.apply(wanted(num_replicas=1))
    for _ in range(4):
        world.step()
    for replica_id in list(world.replicas):
        world.set_state(replica_id, ReplicaState.BACKOFF, failed_starts=3, message="broken")
    world.settle()
    assert world.applications["app"].failure is not None
    world.apply(wanted(num_replicas=1))
    assert known(world.applications["app"]) is None


def test_a_worker_that_builds_something_else_fails_the_revision() -> None:
    world = World("w1")
    world.pins = lambda env: replace(PINNED, working_dir="local:///etc")
    world.apply(wanted())
    world.settle()
    failure = world.applications["app"].failure
    assert failure is not None and "another environment" in failure.message
