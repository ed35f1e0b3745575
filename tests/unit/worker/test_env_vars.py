from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.errors import InvalidConfig
from mesh.model import RuntimeEnv
from mesh.serving.env_vars import VALUE_BYTES_MAX
from mesh.worker.env_vars import resolved
from mesh.worker.failures import failure_of

SECRET = "hunter2"


def refused(env: RuntimeEnv) -> str:
    """What is told of an environment that cannot be had; the field is always that of X."""
    with pytest.raises(InvalidConfig) as caught:
        resolved(env)
    failure = failure_of(caught.value)
    assert failure.field == "runtime_env.env_vars.X"
    assert SECRET not in repr(failure)
    return failure.message


def test_values_come_from_where_the_references_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_TOKEN", SECRET)
    (tmp_path / "db").write_bytes(b"p\xc3\xa4ss\n\n")
    env = RuntimeEnv(
        env_vars={"MODE": "fast"},
        env_vars_from_env={"TOKEN": "APP_TOKEN"},
        env_vars_from_file={"DB": str(tmp_path / "db")},
    )
    assert resolved(env) == {"MODE": "fast", "TOKEN": SECRET, "DB": "päss\n"}


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"", ""), (b"\n", ""), (b"a\r\n", "a"), (b"a\r", "a\r"), (b"x" * VALUE_BYTES_MAX + b"\n", "x" * VALUE_BYTES_MAX)],
)
def test_one_final_newline_is_dropped(tmp_path: Path, content: bytes, value: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert resolved(RuntimeEnv(env_vars_from_file={"X": str(tmp_path / "f")})) == {"X": value}


def test_a_variable_that_the_worker_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_TOKEN", raising=False)
    message = refused(RuntimeEnv(env_vars_from_env={"X": "APP_TOKEN"}))
    assert message == "the worker has no environment variable 'APP_TOKEN'"


def test_files_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "large").write_text(SECRET * VALUE_BYTES_MAX)
    (tmp_path / "nul").write_text(f"{SECRET}\0")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, why in {
        "none": "No such file",
        "large": "larger than 64 KiB",
        "nul": "holds a NUL",
        "pipe": "no regular file",
        "loop": "symbolic links",
        ".": "regular file",
    }.items():
        path = f"{tmp_path}/{name}"
        message = refused(RuntimeEnv(env_vars_from_file={"X": path}))
        assert why in message or "directory" in message, message
        assert path in message
    assert "/dev/zero" in refused(RuntimeEnv(env_vars_from_file={"X": "/dev/zero"}))
    assert "cannot read" in refused(RuntimeEnv(env_vars_from_file={"X": "/a\0b"}))
