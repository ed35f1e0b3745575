"""What an import path may name, and how failures in user code are told. Each case runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOAD = """
import json, sys
from mesh import model
from dataclasses import asdict
from mesh.errors import MeshError
from mesh.worker.failures import failure_of
from mesh.worker.user_code import load_application
config = json.loads(sys.argv[1])
env = model.RuntimeEnv(**config.pop("runtime_env"))
try:
    application = load_application(model.ApplicationConfig(runtime_env=env, **config))
    said = {"name": application.deployment.name, "args": repr(application.args)}
except MeshError as error:
    said = {"kind": type(error).__name__, **asdict(failure_of(error))}
print(json.dumps({**said, "grpc": "grpc" in sys.modules, "path": sys.path[:3]}))
"""
DEPLOYMENT = (
    "import mesh\n@mesh.deployment\nclass Hello:\n    def __init__(self, *a): pass\n    def __call__(self): pass\n"
)


class Loader:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, source: str) -> None:
        (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_text(source)

    def load(self, import_path: str = "served:app", args: object = None, **runtime_env: object) -> dict[str, Any]:
        config = {
            "import_path": import_path,
            "args_json": "" if args is None else json.dumps(args),
            "runtime_env": {"working_dir": str(self.directory), **runtime_env},
        }
        command = [sys.executable, "-P", "-c", LOAD, json.dumps(config)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, timeout=30)
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert said["grpc"] is False
        return said

    def fail(self, source: str, import_path: str = "served:app", args: object = None) -> str:
        self.write("served.py", source)
        said = self.load(import_path, args)
        assert said["kind"] == "UserCodeError", said
        assert "\n" not in said["message"]
        assert said["hint"]
        return f"{said['field']}: {said['message']} -> {said['hint']}"


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


# What an import path may name.


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("app = Hello.bind()", "served:app"),
        ("", "served:Hello"),
        ("def app(): return Hello.bind()", "served:app"),
        ("def app(args): return Hello", "served:app"),
        ("class Apps:\n    app = Hello.bind()", "served:Apps.app"),
    ],
)
def test_an_application_a_deployment_or_a_builder_is_taken(loader: Loader, end: str, path: str) -> None:
    loader.write("served.py", DEPLOYMENT + end)
    assert loader.load(path)["name"] == "Hello"


def test_a_builder_gets_the_args(loader: Loader) -> None:
    loader.write("served.py", DEPLOYMENT + "def app(args): return Hello.bind(args)")
    assert loader.load(args={"model": "small"})["args"] == "({'model': 'small'},)"
    assert loader.load()["args"] == "({},)"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("app = Hello.bind()", "is an application; only a builder function takes args"),
        ("app = Hello", "is a deployment; only a builder function takes args"),
        ("def app(): return Hello.bind()", "takes no parameter"),
        ("def app(*, model): return Hello.bind()", "takes no parameter"),
    ],
)
def test_args_that_nobody_takes_are_an_error(loader: Loader, end: str, expected: str) -> None:
    said = loader.fail(DEPLOYMENT + end, args={"model": "small"})
    assert expected in said
    assert said.startswith("args: ")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("app = 7", "'served:app' is a value of type 'int', not an application -> name a bound deployment"),
        ("class app: pass", "is the class 'app', not a deployment -> decorate it with @mesh.deployment"),
        ("def app(): return None", "builder 'served:app' returned a value of type 'NoneType'"),
        ("async def app(): return Hello", "is async"),
        ("def app(args, more): return Hello", "TypeError"),
        ("def app(): raise ValueError('no model')", "ValueError: no model (served.py:6)"),
        ("apps = Hello.bind()", "no attribute 'app', which 'served:app' names -> did you mean 'apps'?"),
        ("import types\napp = types.SimpleNamespace()", "of type 'SimpleNamespace'"),
    ],
)
def test_what_is_no_application_is_described(loader: Loader, end: str, expected: str) -> None:
    assert expected in loader.fail(DEPLOYMENT + end)


# Modules that cannot be imported.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "x = 1\nimport nothing_of_the_kind",
            "ModuleNotFoundError: No module named 'nothing_of_the_kind' (served.py:2)",
        ),
        ("def f():\n    1 / 0\nf()", "ZeroDivisionError: division by zero (served.py:2)"),
        ("x = (", "SyntaxError: '(' was never closed (served.py:1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3, the code ended its process (served.py:2)"),
        ("import json\njson.loads('{')", "(served.py:2)"),
        ("assert 1 == 2", "AssertionError (served.py:1)"),
        (
            "import mesh\n@mesh.deployment(max_ongoing=1)\ndef f(): pass",
            "unknown option 'max_ongoing' (served.py:2) -> did you mean 'max_ongoing_requests'?",
        ),
        ("raise ValueError('x' * 100_000)", "… (served.py:1)"),
        ("raise ValueError('one\\ntwo')", "import_path: ValueError: one two (served.py:1) -> mend the code"),
    ],
)
def test_an_error_at_import_is_told_with_its_place(loader: Loader, source: str, expected: str) -> None:
    assert expected in loader.fail(source)


def test_an_error_in_a_module_that_is_imported_is_told_with_that_place(loader: Loader) -> None:
    loader.write("parts/deep.py", "raise RuntimeError('broken')")
    assert "RuntimeError: broken (parts/deep.py:1) ->" in loader.fail("import parts.deep")


def test_a_module_that_is_not_there_is_told_with_the_nearest(loader: Loader) -> None:
    loader.write("slow.py", "")
    said = loader.load("slwo:app")
    assert said["message"] == "there is no module 'slwo' in working_dir"
    assert (said["field"], said["hint"], said["details"]) == ("import_path", "did you mean 'slow'?", "")


def test_a_module_of_a_package_that_is_not_there_is_told(loader: Loader) -> None:
    loader.write("pack/__init__.py", "")
    loader.write("pack/served.py", "")
    said = loader.load("pack.server:app")
    assert said["message"] == "there is no module 'pack.server' in package 'pack'"
    assert said["hint"] == "did you mean 'served'?"


def test_a_directory_that_is_not_there_is_told(loader: Loader) -> None:
    said = loader.load(working_dir="/nowhere/at/all")
    assert (said["kind"], said["field"]) == ("InvalidConfig", "runtime_env.working_dir")
    assert "/nowhere/at/all" in said["message"]
    said = loader.load(py_modules=[str(loader.directory), "/nowhere"])
    assert (said["field"], said["hint"]) == ("runtime_env.py_modules[1]", "it has to be on every worker")


def test_the_traceback_has_only_frames_of_user_code_and_its_causes(loader: Loader) -> None:
    loader.write("served.py", "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n")
    traceback = loader.load()["details"]
    assert "KeyError: 'a'" in traceback
    assert "direct cause" in traceback
    assert traceback.endswith("ValueError: no a")
    assert "importlib" not in traceback
    assert "user_code.py" not in traceback
    assert traceback.count('served.py", line') == 2


# The import path.


def test_the_working_directory_comes_first_then_the_modules(loader: Loader, tmp_path: Path) -> None:
    loader.write("served.py", DEPLOYMENT + "import extra\napp = Hello.bind(extra.VALUE)")
    loader.write("more/extra.py", "VALUE = 7")
    loader.write("more/served.py", "raise AssertionError('the wrong one')")
    said = loader.load(py_modules=[str(tmp_path / "more")])
    assert said["args"] == "(7,)"
    assert said["path"][:2] == [str(tmp_path), str(tmp_path / "more")]


def test_user_code_may_be_named_like_a_module_of_mesh(loader: Loader) -> None:
    loader.write("model.py", DEPLOYMENT)
    loader.write("queue.py", "raise AssertionError('shadows')")
    assert loader.load("model:Hello")["name"] == "Hello"
