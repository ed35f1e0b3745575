from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.files import read_file, warn_of_secrets


def test_plain_secrets_are_warned_of_without_their_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "applications:\n- import_path: a:b\n  runtime_env:\n    env_vars:\n"
        "      MODE: fast\n      API_TOKEN: hunter2\n      DB_PASSWORD: {from_env: DB}\n"
    )
    warn_of_secrets(read_file(str(path)))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"warning: {path}:6:18: applications[0].runtime_env.env_vars.API_TOKEN looks like")
    assert "{from_env: NAME} or {from_file: /PATH}" in said.err
    assert "hunter2" not in said.err
    assert "DB_PASSWORD" not in said.err
