"""Ignore rules: each answer below is git's own for the same files."""

from __future__ import annotations

import pytest

from mesh.packages.ignored import Ignored


@pytest.mark.parametrize(
    ("lines", "kept", "left_out"),
    [
        (["*.txt"], ["a.py", "txt", "d/"], ["a.txt", "d/a.txt", "x.txt/"]),
        (["/a"], ["d/a"], ["a", "a/"]),
        (["a/"], ["a", "d/a"], ["a/", "d/a/"]),
        (["a/b"], ["b", "d/a/b"], ["a/b", "a/b/"]),
        (["**/e"], ["ee"], ["e", "d/e", "d/e/"]),
        (["a/**"], ["a/", "d/a/b"], ["a/b", "a/b/c"]),
        (["a/**", "!a/keep.py"], ["a/", "a/keep.py"], ["a/other.py"]),
        (["a/**/c.py"], ["a/", "c.py"], ["a/c.py", "a/b/d/c.py"]),
        (["*", "!*/", "!*.py"], ["a.py", "d/", "d/a.py"], ["a.txt", "d/a.txt"]),
        (["b/*", "**/e", "!a/"], ["a/", "b/a/"], ["b/c", "a/e/", "b/a/e"]),
        (["# no rule", "", "\\#one"], ["# no rule"], ["#one"]),
        (["\\!x", "y "], ["x"], ["!x", "y"]),
        (["[ab].py", "?"], ["cc.py"], ["a.py", "d/b.py", "z"]),
    ],
)
def test_rules_mean_what_they_mean_to_git(lines: list[str], kept: list[str], left_out: list[str]) -> None:
    ignored = Ignored(()).within("", lines)
    asked = [*kept, *left_out]
    answers = [path for path in asked if ignored.leaves_out(path.rstrip("/"), directory=path.endswith("/"))]
    assert answers == left_out


def test_deeper_rules_come_first_and_are_relative() -> None:
    ignored = Ignored(()).within("", ["*.txt", "/top.py"]).within("d/", ["!keep.txt", "/inner.py"])
    assert not ignored.leaves_out("d/keep.txt", directory=False)
    assert ignored.leaves_out("d/other.txt", directory=False)
    assert ignored.leaves_out("d/inner.py", directory=False)
    assert not ignored.leaves_out("d/e/inner.py", directory=False)
    assert not ignored.leaves_out("d/top.py", directory=False)


def test_what_is_left_out_by_default_can_be_brought_back_but_git_never() -> None:
    ignored = Ignored.at_top()
    for path in ("__pycache__", ".venv", "d/node_modules", ".git"):
        assert ignored.leaves_out(path, directory=True)
    assert ignored.leaves_out("d/.meshignore", directory=False) and ignored.leaves_out(".env", directory=False)
    assert ignored.leaves_out("m.pyc", directory=False) and ignored.leaves_out("d/.git", directory=False)
    brought = ignored.within("", ["!.venv/", "!.git", "!*.pyc"])
    assert not brought.leaves_out(".venv", directory=True) and not brought.leaves_out("m.pyc", directory=False)
    assert brought.leaves_out(".git", directory=True) and brought.leaves_out(".git", directory=False)


def test_a_line_that_is_no_pattern_is_an_error() -> None:
    with pytest.raises(ValueError):
        Ignored(()).within("", ["!"])
