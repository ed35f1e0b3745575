from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.builds import Build, Builds, plan_of, version_of
from mesh.model import Application, ApplicationConfig, BuiltDeployment, DeploymentConfig, Failure, Plan, RuntimeEnv
from mesh.reasons import Reason

CONFIG = ApplicationConfig("a", "/a", "m:app", args_json='{"x": 1, "y": 2}')
BUILD = Build("b1", "a", 1, "w1", 1, 0.0, 60.0)
ECHO = BuiltDeployment(True, DeploymentConfig(name="Echo", num_replicas=2, max_ongoing_requests=3))


def planned(
    *built: BuiltDeployment, config: ApplicationConfig = CONFIG, failure: Failure | None = None
) -> Plan | Failure:
    application = Application(config=config, revision=5)
    return plan_of(application, replace(BUILD, ended=True, failure=failure, deployments=built))


def test_config_wins_over_code_over_defaults() -> None:
    override = DeploymentConfig(name="Echo", num_replicas=7)
    plan = planned(ECHO, config=replace(CONFIG, deployments=(override,)))
    assert isinstance(plan, Plan)
    (spec,) = plan.deployments
    assert (plan.revision, spec.ingress) == (5, True)
    settings = spec.settings
    assert (settings.num_replicas, settings.max_ongoing_requests, settings.max_queued_requests) == (7, 3, 100)


@pytest.mark.parametrize(
    ("built", "text"),
    [
        ((), "exactly one ingress"),
        ((replace(ECHO, ingress=False),), "exactly one ingress"),
        ((BuiltDeployment(True, DeploymentConfig(name="E", user_config_json="x" * 20_000)),), "20000 characters"),
    ],
)
def test_a_build_without_sense_fails(built: tuple[BuiltDeployment, ...], text: str) -> None:
    failure = planned(*built)
    assert isinstance(failure, Failure)
    assert text in failure.message
    assert failure.field == "import_path" and failure.hint


def test_errors_are_passed_on() -> None:
    said = Failure("ImportError: no", "import_path", "mend it", "Traceback")
    assert planned(failure=said) == replace(said, reason=Reason.BUILD_FAILED)
    told = replace(said, reason=Reason.ENVIRONMENT_FAILED)
    assert planned(failure=told) == told


@pytest.mark.parametrize(
    "changed",
    [
        {"import_path": "m:other"},
        {"args_json": '{"x": 2, "y": 2}'},
        {"code_version": "2"},
        {"runtime_env": RuntimeEnv(env_vars={"A": "1"})},
        {"runtime_env": RuntimeEnv(env_vars_from_env={"A": "B"})},
        {"runtime_env": RuntimeEnv(env_vars_from_file={"A": "/b"})},
        {"runtime_env": RuntimeEnv(working_dir="/x")},
        {"runtime_env": RuntimeEnv(py_modules=("/x",))},
    ],
)
def test_what_needs_new_replicas_changes_the_version(changed: dict[str, object]) -> None:
    assert version_of(replace(CONFIG, **changed), "Echo") != version_of(CONFIG, "Echo")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"route_prefix": "/b"},
        {"args_json": '{"y":2,"x":1}'},
        {"deployments": (DeploymentConfig(name="Echo", num_replicas=3, user_config_json="1"),)},
    ],
)
def test_what_needs_none_does_not(changed: dict[str, object]) -> None:
    assert version_of(replace(CONFIG, **changed), "Echo") == version_of(CONFIG, "Echo")  # type: ignore[arg-type]


def test_deployments_have_versions_of_their_own() -> None:
    assert version_of(CONFIG, "Echo") != version_of(CONFIG, "Other")


def test_a_result_is_taken_once_and_from_the_newest_build_only() -> None:
    builds = Builds()
    builds.started(BUILD)
    builds.started(replace(BUILD, build_id="b2"))
    assert not builds.ended(BUILD)
    assert builds.ended(replace(BUILD, build_id="b2", deployments=(ECHO,)))
    assert not builds.ended(replace(BUILD, build_id="b2", failure=Failure("too late")))
    assert builds.newest["a"].deployments == (ECHO,)
    builds.keep(())
    assert builds.newest == {}
