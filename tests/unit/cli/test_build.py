"""What the words of `build` ask for. What it writes: test_config_writer; that it runs: tests/e2e/test_config.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from mesh.cli.build import _check, _configs, _write
from mesh.cli.flags import ImportFlags
from mesh.errors import Conflict, InvalidConfig


def test_one_is_the_default_application(tmp_path: Path) -> None:
    (config,) = _configs(["shop:make", "size=a=b", "n=1"], ImportFlags(working_dir=tmp_path))
    assert (config.name, config.route_prefix, config.import_path) == ("default", "/", "shop:make")
    assert config.args_json == '{"n": "1", "size": "a=b"}'
    assert config.runtime_env.working_dir == str(tmp_path.resolve())
    (config,) = _configs(["shop:app"], ImportFlags("shop", "/shop", tmp_path))
    assert (config.name, config.route_prefix) == ("shop", "/shop")


def test_several_have_names_and_routes_of_their_own(tmp_path: Path) -> None:
    configs = _configs(["a:app", "b:app", "a:app"], ImportFlags(working_dir=tmp_path))
    assert [(config.name, config.route_prefix, config.import_path) for config in configs] == [
        ("app1", "/app1", "a:app"),
        ("app2", "/app2", "b:app"),
        ("app3", "/app3", "a:app"),
    ]


@pytest.mark.parametrize(
    ("words", "flags", "expected"),
    [
        (["x=1"], ImportFlags(), "name at least one"),
        (["a:b", "c:d", "x=1"], ImportFlags(), "takes a single import path"),
        (["a:b", "c:d"], ImportFlags(name="x"), "takes a single import path"),
        (["a:b", "c:d"], ImportFlags(route_prefix="/x"), "takes a single import path"),
    ],
)
def test_words_that_do_not_fit(words: list[str], flags: ImportFlags, expected: str) -> None:
    with pytest.raises(typer.BadParameter, match=expected):
        _configs(words, flags)


def test_wrong_import_paths_are_told_at_once() -> None:
    with pytest.raises(InvalidConfig, match=r"TARGET: 'mesh\.yaml'|TARGET: must look like"):
        _configs(["mesh.yaml"], ImportFlags())
    with pytest.raises(InvalidConfig, match="--working-dir"):
        _configs(["a:b"], ImportFlags(working_dir=Path("/nowhere")))


def test_a_file_is_written_over_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    _check(path, force=False)
    _write(path, "one", force=False)
    with pytest.raises(Conflict, match="is there already"):
        _check(path, force=False)
    with pytest.raises(Conflict, match="is there already"):
        _write(path, "two", force=False)
    _check(path, force=True)
    _write(path, "two", force=True)
    assert path.read_text() == "two"
    with pytest.raises(InvalidConfig, match="cannot write"):
        _write(tmp_path / "nowhere" / "mesh.yaml", "x", force=False)
