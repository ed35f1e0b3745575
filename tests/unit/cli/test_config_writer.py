"""What `build` writes is a config file that says what the code says, with and without its comments."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.cli import config_fields, config_file, config_schema
from mesh.cli.config_file import Config, Surroundings
from mesh.cli.config_writer import Built, written
from mesh.model import ApplicationConfig, DeploymentConfig, JsonOptions, RuntimeEnv
from mesh.serving.options import OPTIONS, resolve


def config(name: str = "default", route: str = "/", args_json: str = "") -> ApplicationConfig:
    env = RuntimeEnv(working_dir="/srv/code")
    return ApplicationConfig(name, route, "slow:app", runtime_env=env, args_json=args_json)


def parse(text: str) -> Config:
    return config_file.parse(text, path="mesh.yaml", surroundings=Surroundings("/srv", {})).config


def uncommented(text: str) -> str:
    """The same with every default in force by the file; the comments behind the values stay."""
    return re.sub(r"^( *)# (\w+:)", r"\1\2", text, flags=re.MULTILINE)


def test_what_code_set_stands_plainly_and_the_rest_as_comments() -> None:
    deployment = DeploymentConfig(
        name="Slow", max_ongoing_requests=2, user_config_json='{"a": [1]}', json=JsonOptions(proto_names=True)
    )
    text = written([Built(config(), (deployment,))], directory="/srv")
    lines = [re.sub(r"\s+# [A-Z'].*", "", line) for line in text.splitlines()]
    start = lines.index("applications:")
    assert lines[start:] == [
        "applications:",
        "  - name: default",
        "    route_prefix: /",
        "    import_path: slow:app",
        "    runtime_env:",
        "      working_dir: code",
        "      # py_modules: []",
        "      # pip: []",
        "      # env_vars: {}",
        "    # args: {}",
        '    # code_version: ""',
        "    deployments:",
        "      - name: Slow",
        "        # num_replicas: 1",
        "        max_ongoing_requests: 2",
        "        # max_queued_requests: 100",
        "        user_config:",
        "          a:",
        "          - 1",
        "        json:",
        "          # emit_defaults: false",
        "          proto_names: true",
        "          # enums_as_numbers: false",
        "        # request_timeout_s: 60",
        "        # graceful_shutdown_timeout_s: 20",
        "        # health_check_period_s: 10",
        "        # health_check_timeout_s: 30",
        "        # health_check_failure_threshold: 3",
        "        # startup_timeout_s: 60",
        "        # rolling_update_percentage: 0.2",
    ]


def test_every_field_of_the_file_is_in_it() -> None:
    text = written([Built(config(), (DeploymentConfig(name="D"),))], directory="/srv")
    for fields in config_fields.LEVELS.values():
        for name in fields:
            assert re.search(rf"^ *(# |- )?{name}:", text, re.MULTILINE), name


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
_JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MAYBE = st.none() | st.booleans()
_DEPLOYMENT = st.builds(
    DeploymentConfig,
    name=st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True),
    num_replicas=st.none() | st.integers(0, 9),
    max_ongoing_requests=st.none() | st.integers(1, 9),
    max_queued_requests=st.none() | st.integers(-1, 9),
    user_config_json=st.none() | _JSON.map(lambda value: json.dumps(value, sort_keys=True)),
    request_timeout_s=st.none() | st.floats(0.001, 1000),
    json=st.none() | st.builds(JsonOptions, _MAYBE, _MAYBE, _MAYBE),
    rolling_update_percentage=st.none() | st.floats(0.001, 1),
)


@given(st.lists(_DEPLOYMENT, min_size=1, max_size=3, unique_by=lambda d: d.name), st.dictionaries(_TEXT, _TEXT))
def test_it_is_the_same_goal_as_the_code_alone(deployments: list[DeploymentConfig], args: dict[str, Any]) -> None:
    args_json = json.dumps(args, sort_keys=True) if args else ""
    built = [
        Built(config(args_json=args_json), tuple(deployments)),
        Built(config("other", "/other"), tuple(deployments)),
    ]
    text = written(built, directory="/srv")
    first, other = parse(text).applications
    assert (first.import_path, first.args_json, first.runtime_env) == ("slow:app", args_json, config().runtime_env)
    assert (other.name, other.route_prefix) == ("other", "/other")
    for code, override in zip(deployments, first.deployments, strict=True):
        assert resolve(code, override) == resolve(code, None)
    # `config` writes what was deployed, and deploying that changes nothing.
    again = parse(config_file.render(parse(text)))
    assert again == parse(text)


def test_what_is_commented_may_be_uncommented() -> None:
    code = DeploymentConfig(name="D", num_replicas=2)
    text = uncommented(written([Built(config(), (code,))], directory="/srv"))
    (application,) = parse(text).applications
    (override,) = application.deployments
    unset = [name for name in OPTIONS if name != "user_config" and getattr(override, name) is None]
    assert unset == []
    assert resolve(code, override).request_timeout_s == 60
    assert config_schema.schema()["properties"].keys() >= {"http_options"}
