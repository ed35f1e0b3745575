"""Requirements: which are taken, and what becomes of them."""

from __future__ import annotations

import pytest

from mesh.packages.requirements import REQUIREMENTS_MAX, constrained, names, pins, requirement_problems, url_of


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "numpy>=2,<3",
        "uvicorn[standard]==0.40.0",
        "torch; sys_platform == 'linux'",
        "pkg @ https://example.com/pkg-1.0-py3-none-any.whl",
        "pkg @ https://example.com/pkg-1.0-py3-none-any.whl#sha256=00",
    ],
)
def test_what_is_taken(text: str) -> None:
    assert not list(requirement_problems([text], at="pip"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-e .", "option"),
        (" --index-url https://example.com", "option"),
        ("-r other.txt", "option"),
        ("./pkg", "no requirement"),
        ("/srv/pkg", "no requirement"),
        ("pkg.whl @", "no requirement"),
        ("numpy >", "no requirement"),
        ("", "no requirement"),
        ("numpy\n-e .", "more than one line"),
        ("pkg @ file:///etc/passwd", "https:"),
        ("pkg @ http://example.com/p.whl", "https:"),
        ("pkg @ git+https://example.com/p", "https:"),
        ("pkg @ ./p.whl", "https:"),
        ("pkg @ https://user:hunter2@example.com/p.whl", "https:"),
        ("pkg @ https://example.com/p.whl?token=hunter2", "https:"),
        ("n" * 501, "characters"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    (problem,) = requirement_problems(["numpy", text], at="runtime_env.pip")
    assert problem.field == "runtime_env.pip[1]"
    assert why in problem.message
    assert "hunter2" not in problem.message + problem.hint


def test_there_is_a_bound() -> None:
    (problem,) = requirement_problems(["a"] * (REQUIREMENTS_MAX + 1), at="pip")
    assert problem.field == "pip"


def test_constraints_are_those_of_no_extra() -> None:
    own = ("grpcio<2,>=1.85.1", "uvloop>=0.22; sys_platform != 'win32'", "watchfiles>=1; extra == 'reload'")
    assert constrained(own) == ("grpcio<2,>=1.85.1", "uvloop>=0.22")
    assert names(constrained(own)) == {"grpcio", "uvloop"}


def test_pins_of_a_lock() -> None:
    hashes = "    --hash=sha256:00 \\\n    --hash=sha256:01\n"
    lock = f"# comment\na==1.0 \\\n{hashes}b_c==2 ; python_version > '3' \\\n{hashes}"
    assert pins(lock) == ("a==1.0", "b_c==2 ; python_version > '3'")
    assert pins("a==1.0 --hash=sha256:00\nd @ https://example.com/d.whl --hash=sha256:01\n") == (
        "a==1.0",
        "d @ https://example.com/d.whl",
    )
    assert url_of("d @ https://example.com/d.whl") == "https://example.com/d.whl"
    assert not url_of("a==1.0")
