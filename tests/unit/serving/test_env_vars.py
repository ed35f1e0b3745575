from __future__ import annotations

import pytest

from mesh.model import RuntimeEnv
from mesh.serving.env_vars import VALUE_BYTES_MAX, env_vars_problems, plain_secrets


def problems(env: RuntimeEnv) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in env_vars_problems(env, at="env_vars")]


def test_values_and_references_are_sound() -> None:
    env = RuntimeEnv(
        env_vars={"MODE": "fast", "EMPTY": "", "_x1": "é\n"},
        env_vars_from_env={"TOKEN": "APP_TOKEN"},
        env_vars_from_file={"DB_PASSWORD": "/run/secrets/db"},
    )
    assert problems(env) == []


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "É", "A\n", "A" * 201, "A\0"])
def test_names_are_those_of_posix(name: str) -> None:
    for env in (
        RuntimeEnv(env_vars={name: "x"}),
        RuntimeEnv(env_vars_from_env={name: "X"}),
        RuntimeEnv(env_vars_from_file={name: "/x"}),
        RuntimeEnv(env_vars_from_env={"X": name}),
    ):
        ((field, message),) = problems(env)
        assert field.startswith("env_vars")
        assert field.isprintable()
        assert "is not the name of an environment variable" in message
        assert len(message) < 150


@pytest.mark.parametrize("path", ["", "secret", "./x", "~/x", "/a\0b", "/" + "x" * 5000])
def test_files_have_absolute_paths(path: str) -> None:
    ((field, message),) = problems(RuntimeEnv(env_vars_from_file={"X": path}))
    assert field == "env_vars.X.from_file"
    assert "absolute path" in message or "is longer than" in message


def test_a_variable_is_set_once() -> None:
    env = RuntimeEnv(env_vars={"X": "secret-value"}, env_vars_from_env={"X": "Y"}, env_vars_from_file={"X": "/z"})
    assert problems(env) == [("env_vars.X", "is set in two ways")] * 2


@pytest.mark.parametrize("value", ["a\0b", "x" * (VALUE_BYTES_MAX + 1)])
def test_values_that_no_process_takes(value: str) -> None:
    ((field, message),) = problems(RuntimeEnv(env_vars={"X": value}))
    assert field == "env_vars.X"
    assert value not in message


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("PGPASSWORD", True),
        ("password", True),
        ("API_TOKEN", True),
        ("GITHUB_TOKEN", True),
        ("CLIENT_SECRET", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("OPENAI_API_KEY", True),
        ("AWS_ACCESS_KEY_ID", False),
        ("TLS_KEY_FILE", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("MONKEY", False),
        ("PWD", False),
        ("MODE", False),
    ],
)
def test_what_looks_like_a_secret(name: str, secret: bool) -> None:
    assert plain_secrets(RuntimeEnv(env_vars={name: "x"})) == ([name] if secret else [])
    assert plain_secrets(RuntimeEnv(env_vars={name: ""}, env_vars_from_env={name: "X"})) == []
