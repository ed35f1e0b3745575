from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mesh.controlplane.validate import (
    APPLICATIONS_PER_APPLY_MAX,
    CONFIG_BYTES_MAX,
    apply_problems,
    options_problems,
)
from mesh.model import Application, ApplicationConfig, DeploymentConfig, RuntimeEnv


def config(name: str = "a", **fields: object) -> ApplicationConfig:
    return replace(ApplicationConfig(name, f"/{name}", "m:app"), **fields)  # type: ignore[arg-type]


def problems(
    *configs: ApplicationConfig,
    stored: Mapping[str, Application] | None = None,
    keep_others: bool = False,
    size: int = 9,
) -> list[tuple[str, str]]:
    found = apply_problems(configs, stored or {}, keep_others=keep_others, sizes=[size] * len(configs))
    return [(problem.field, problem.message) for problem in found]


def stored(*configs: ApplicationConfig, deleting: bool = False) -> dict[str, Application]:
    return {c.name: Application(config=c, revision=1, deleting=deleting) for c in configs}


def test_a_sound_config_has_none() -> None:
    assert problems(config("a"), config("b", args_json='{"x": 1}')) == []
    assert problems() == []


def test_single_options_are_checked() -> None:
    (wrong,) = problems(config(import_path="nope"))
    assert wrong[0] == "applications[0].import_path"


def test_variables_of_the_environment_are_checked() -> None:
    env = RuntimeEnv(env_vars={"A=B": ""}, env_vars_from_file={"X": "relative"})
    fields = [field for field, _ in problems(config(runtime_env=env))]
    assert fields == ["applications[0].runtime_env.env_vars.A=B", "applications[0].runtime_env.env_vars.X.from_file"]


def test_routes_of_applications_that_stay_are_taken() -> None:
    there = stored(config("b"), config("hidden", route_prefix=""))
    clash = config("a", route_prefix="/b")
    assert problems(clash, stored=there) == [], "b is deleted by this apply"
    assert problems(clash, stored=there, keep_others=True) == [
        ("applications[0].route_prefix", "route_prefix '/b' is taken by application 'b'")
    ]
    assert problems(clash, config("b", route_prefix="/c"), stored=there, keep_others=True) == []
    assert problems(clash, stored=stored(config("b"), deleting=True), keep_others=True) == []
    assert problems(config("a", route_prefix=""), stored=there, keep_others=True) == []


@pytest.mark.parametrize("text", ["{", "[1]", "3", "nonsense"])
def test_args_are_a_json_object(text: str) -> None:
    ((field, _),) = problems(config(args_json=text))
    assert field == "applications[0].args"


def test_user_config_is_json() -> None:
    bad = DeploymentConfig(name="Echo", user_config_json="{")
    ((field, _),) = problems(config(deployments=(bad,)))
    assert field == "applications[0].deployments[0].user_config"
    assert problems(config(deployments=(replace(bad, user_config_json="[1, null]"),))) == []


def test_limits_of_one_apply() -> None:
    most = [config(f"a{i}") for i in range(APPLICATIONS_PER_APPLY_MAX)]
    assert problems(*most) == []
    ((field, message),) = problems(*most, config("more"))
    assert (field, "are allowed" in message) == ("applications", True)
    there = stored(*most, config("more"))
    assert len(problems(config("x"), stored=there)) == 1
    assert problems(config("x"), stored=there, keep_others=True) == []
    assert problems(config("x"), size=CONFIG_BYTES_MAX) == []
    ((field, _),) = problems(config("x"), size=CONFIG_BYTES_MAX + 1)
    assert field == "applications[0]"


def test_options() -> None:
    assert options_problems(None, None, None) == ()
    assert options_problems(0, 9000, 30.0) == ()
    wrong = options_problems(70000, -1, 0.0)
    assert [p.field for p in wrong] == ["http_options.port", "http_options.request_timeout_s", "grpc_options.port"]
