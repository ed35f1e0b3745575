"""What `run` is given: config files and import paths told apart, arguments, defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.cli import target
from mesh.cli.target import Asked
from mesh.errors import InvalidConfig, NotFound


def test_an_import_path_becomes_one_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = target.read(Asked("pkg.slow:app", ("size=3", "text=a=b", "empty=")))
    (application,) = found.config.applications
    assert (application.name, application.route_prefix, application.import_path) == ("default", "/", "pkg.slow:app")
    assert application.runtime_env.working_dir == str(tmp_path)
    assert json.loads(application.args_json) == {"size": "3", "text": "a=b", "empty": ""}
    assert found.directories == (tmp_path,)
    assert found.file is None


def test_flags_of_an_import_path(tmp_path: Path) -> None:
    (application,) = target.read(Asked("slow:app", (), "x", "/x", tmp_path)).config.applications
    assert (application.name, application.route_prefix) == ("x", "/x")
    assert application.runtime_env.working_dir == str(tmp_path)


def test_a_config_file_brings_its_directories(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    path = tmp_path / "mesh.yaml"
    path.write_text("applications: [{import_path: 'a:b', runtime_env: {working_dir: code}}]")
    found = target.read(Asked(str(path)))
    assert found.directories == (tmp_path, tmp_path / "code")
    assert found.file is not None


def test_marked_code_differs_and_writes_no_bytecode(tmp_path: Path) -> None:
    found = target.read(Asked("slow:app", working_dir=tmp_path)).marked("v2")
    (application,) = found.config.applications
    assert application.code_version == "v2"
    assert application.runtime_env.env_vars == {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        (
            Asked("slow"),
            "TARGET: must look like 'package.module:attribute', not 'slow'",
            "write a module and what it binds, such as 'shop.main:app'",
        ),
        (Asked("slow.py"), "TARGET: 'slow.py' names a file", "write slow:app"),
        (Asked("a/slow.py:x"), "TARGET: 'a/slow.py:x' names a file", "write a.slow:x"),
        (Asked("slow:app", ("x",)), "'x' is not an argument", "write KEY=VALUE"),
        (Asked("slow:app", ("=x",)), "'=x' is not an argument", "write KEY=VALUE"),
        (Asked("slow:app", ("x=1", "x=2")), "argument 'x' stands twice", "leave one of the two out"),
        (Asked("slow:app", (), "a b"), "--name: must be 1 to 63 letters", "choose a name such as 'shop' or 'shop-v2'"),
        (
            Asked("slow:app", (), None, "x"),
            "--route-prefix: must start with '/'",
            "write a path such as '/' or '/shop'",
        ),
        (
            Asked("slow:app", (), None, None, Path("/nowhere")),
            "--working-dir: /nowhere is not a directory",
            "name the directory to import from",
        ),
    ],
)
def test_refuses(asked: Asked, message: str, hint: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        target.read(asked)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint


def test_a_python_file_is_not_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").touch()
    (tmp_path / "config").touch()
    assert not target.is_file("slow.py")
    assert target.is_file("config")


def test_a_config_file_takes_no_flags_of_an_import_path(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("applications: [{import_path: 'a:b'}]")
    with pytest.raises(InvalidConfig, match="key=value, --name cannot be used with a config file"):
        target.read(Asked(str(path), ("x=1",), "y"))


def test_a_missing_config_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        target.read(Asked(str(tmp_path / "mesh.yaml")))


def test_a_config_file_without_applications_has_nothing_to_run(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("applications: []")
    with pytest.raises(InvalidConfig, match="has nothing to run"):
        target.read(Asked(str(path)))
