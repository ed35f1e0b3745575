"""The command line as such: help, versions, wrong use."""

from __future__ import annotations

import sys

import pytest

from mesh.cli.commands import GROUPS, main

COMMANDS = [command.__name__ for commands in GROUPS.values() for command in commands]


def meshctl(*args: str) -> int:
    sys.argv[1:] = args
    return main()


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["meshctl"])


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert meshctl("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in COMMANDS)
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert meshctl(command, "--help") == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"meshctl {command}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert meshctl("--version") == 0
    assert capsys.readouterr().out.startswith("meshctl ")


def test_without_a_command_the_overview_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert meshctl() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: meshctl" in captured.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nope",), "error: No such command 'nope'.\n  fix: meshctl --help\n"),
        (("deploy",), "error: Missing argument 'FILE'.\n  fix: meshctl deploy --help\n"),
        (("status", "--nope"), "error: No such option: --nope"),
        (("run", "a:b", "--port", "70000"), "error: Invalid value for '--port'"),
        (("run", "a:b", "--log-level", "loud"), "error: Invalid value for --log-level: unknown level 'loud'"),
        (("start", "--store", "sqlite:///x", "--data-dir", "y"), "error: Invalid value for --data-dir"),
        (("worker", "--id", "a/b"), "error: Invalid value for --id: must be 1 to 63 letters"),
        (("gateway", "--control", "nonsense"), "error: Invalid value for --control or MESH_ADDRESS: 'nonsense' is not"),
        (("worker", "--control", "a:1,b"), "error: Invalid value for --control or MESH_ADDRESS: 'b' is not HOST:PORT"),
        (("worker", "--control", "::1:7070"), "error: Invalid value for --control or MESH_ADDRESS: '::1:7070' is not"),
        (("gateway", "--control", "a:65536"), "error: Invalid value for --control or MESH_ADDRESS: 'a:65536' is not"),
        (("gateway", "--control", " , "), "error: Invalid value for --control or MESH_ADDRESS: there is no address"),
        (
            ("status", "--address", "here"),
            "error: Invalid value for --address or MESH_ADDRESS: 'here' is not HOST:PORT",
        ),
        (("validate", "/nowhere/mesh.yaml"), "error: no config file /nowhere/mesh.yaml"),
    ],
)
def test_wrong_use(args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert meshctl(*args) in (2, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
