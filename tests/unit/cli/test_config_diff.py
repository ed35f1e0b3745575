"""What a deploy would change: every field that differs, nothing else, and as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.cli.config_diff import FieldChange, as_data, changes, unified
from mesh.cli.config_values import Config, GrpcOptions, HttpOptions
from mesh.controlplane.apply import applied
from mesh.model import Application, ApplicationConfig, Change, Cors, DeploymentConfig, JsonOptions, RuntimeEnv

SLOW = DeploymentConfig(name="Slow", num_replicas=2, user_config_json='{"a": {"b": 1}}')
SHOP = ApplicationConfig(
    name="shop",
    route_prefix="/shop",
    import_path="shop:app",
    runtime_env=RuntimeEnv(working_dir="/w", env_vars={"A": "1"}, env_vars_from_file={"DB": "/run/db"}),
    deployments=(SLOW, DeploymentConfig(name="Other")),
)
OLD = Config(HttpOptions(port=8000), None, (SHOP, ApplicationConfig("blog", "/blog", "blog:app")))


def new(**fields: Any) -> Config:
    return replace(OLD, applications=(replace(SHOP, **fields), OLD.applications[1]))


def slow(**fields: Any) -> Config:
    return new(deployments=(replace(SLOW, **fields), SHOP.deployments[1]))


def env(**fields: Any) -> Config:
    return new(runtime_env=replace(SHOP.runtime_env, **fields))


@pytest.mark.parametrize(
    ("changed", "field", "was", "becomes"),
    [
        (new(route_prefix="/s"), "route_prefix", "/shop", "/s"),
        (new(args_json='{"x": 1}'), "args", None, {"x": 1}),
        (new(code_version="2"), "code_version", None, "2"),
        (env(working_dir="/x"), "runtime_env.working_dir", "/w", "/x"),
        (env(pip=("numpy",)), "runtime_env.pip", None, ["numpy"]),
        (env(env_vars={"A": "2"}), "runtime_env.env_vars.A", "1", "2"),
        (env(env_vars={}), "runtime_env.env_vars.A", "1", None),
        (env(env_vars_from_file={"DB": "/x"}), "runtime_env.env_vars.DB.from_file", "/run/db", "/x"),
        (slow(num_replicas=3), "deployments[Slow].num_replicas", 2, 3),
        (slow(num_replicas=None), "deployments[Slow].num_replicas", 2, None),
        (slow(user_config_json='{"a": {"b": true}}'), "deployments[Slow].user_config.a.b", 1, True),
        (slow(user_config_json='{"a": {"b": 1.0}}'), "deployments[Slow].user_config.a.b", 1, 1.0),
        (slow(json=JsonOptions(proto_names=True)), "deployments[Slow].json", None, {"proto_names": True}),
        (new(deployments=(SLOW,)), "deployments[Other]", {"name": "Other"}, None),
        (new(deployments=SHOP.deployments[::-1]), "deployments", ["Slow", "Other"], ["Other", "Slow"]),
    ],
)
def test_a_field_that_differs(changed: Config, field: str, was: object, becomes: object) -> None:
    assert changes(OLD, changed) == (FieldChange("shop", field, was, becomes),)
    text = unified(OLD, changed, file="mesh.yaml")
    assert "--- goal state: application shop\n+++ mesh.yaml: application shop\n@@" in text
    assert "blog" not in text
    assert changes(changed, changed) == ()
    assert unified(changed, changed, file="mesh.yaml") == ""
    stored = {each.name: Application(config=each, revision=1) for each in OLD.applications}
    (shop, blog) = applied(changed.applications, stored, keep_others=False, applied_at=1.0)
    assert (shop.change, blog.change) == (Change.UPDATED, Change.UNCHANGED), "a deploy agrees"


def test_options_of_the_whole() -> None:
    changed = replace(OLD, http_options=HttpOptions(cors=Cors(("*",))), grpc_options=GrpcOptions(1))
    assert changes(OLD, changed) == (
        FieldChange("", "http_options.cors", None, {"allow_origins": ["*"]}),
        FieldChange("", "http_options.port", 8000, None),
        FieldChange("", "grpc_options", None, {"port": 1}),
    )
    assert "+++ mesh.yaml: options\n" in unified(OLD, changed, file="mesh.yaml")


def test_applications_that_come_and_go() -> None:
    changed = replace(OLD, applications=(SHOP, ApplicationConfig("news", "/news", "news:app")))
    come, go = changes(OLD, changed)
    assert (come.application, come.old) == ("news", None)
    assert come.new == {"name": "news", "route_prefix": "/news", "import_path": "news:app"}
    assert (go.application, go.field, go.new) == ("blog", "", None)
    text = unified(OLD, changed, file="mesh.yaml")
    assert "+import_path: news:app\n" in text
    assert "-import_path: blog:app\n" in text
    assert as_data((go,))["changes"][0]["old"]["import_path"] == "blog:app"


def test_nothing_and_everything() -> None:
    assert changes(Config(), Config()) == ()
    assert [change.application for change in changes(Config(), OLD)] == ["", "shop", "blog"]
    assert [change.application for change in changes(OLD, Config())] == ["", "shop", "blog"]


def test_colours() -> None:
    text = unified(OLD, slow(num_replicas=3), file="mesh.yaml", colour=True)
    assert "\x1b[31m-  num_replicas: 2\x1b[0m\n\x1b[32m+  num_replicas: 3\x1b[0m\n" in text
