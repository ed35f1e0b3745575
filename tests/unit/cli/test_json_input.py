"""Where the JSON of a command comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.cli.json_input import JsonInput, Text, opened
from mesh.errors import InvalidConfig, MeshError, NotFound


def test_on_the_command_line() -> None:
    with opened('{"a": 1}\n\n  {} ') as given:
        assert given.whole() == Text('{"a": 1}\n\n  {}', "--data", 1)
    with opened('{"a": 1}\n\n  {} ') as given:
        assert [*given.lines()] == [Text('{"a": 1}', "--data", 1), Text("{}", "--data", 3)]
    with opened("") as given:
        assert given.whole() == Text("", "--data", 1)


def test_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text("ä" * 70_000 + "\r\n1")
    with opened(f"@{path}") as given:
        assert [(each.line, len(each.text)) for each in given.lines()] == [(1, 70_000), (2, 1)]


def test_a_line_is_there_before_the_next_one_is_written() -> None:
    read, write = os.pipe()
    try:
        lines = JsonInput("pipe", fd=read).lines()
        os.write(write, b"1\n2")
        assert next(lines) == Text("1", "pipe", 1)
        os.write(write, b"3\n")
        assert next(lines) == Text("23", "pipe", 2)
        os.write(write, b"4")
        os.close(write)
        write = -1
        assert [*lines] == [Text("4", "pipe", 3)]
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound), opened(f"@{tmp_path}/none"):
        pass
    with pytest.raises(MeshError, match="Is a directory"), opened(f"@{tmp_path}") as given:
        given.whole()
    path = tmp_path / "x"
    path.write_bytes(b"1\n\xff\n")
    with pytest.raises(InvalidConfig, match=":2: is not UTF-8"), opened(f"@{path}") as given:
        list(given.lines())


def test_a_value_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.cli.json_input.TEXT_BYTES_MAX", 10)
    with opened("1234567890\n12345678901") as given, pytest.raises(InvalidConfig, match="--data:2: a value of more"):
        list(given.lines())
    with opened("12345678901") as given, pytest.raises(InvalidConfig):
        given.whole()
