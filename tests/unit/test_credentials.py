"""What is presented, what is taken, and that both follow their files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mesh.credentials import OPEN, Credentials
from mesh.errors import InvalidConfig
from mesh.security import Security
from tests.support.certificates import Authority

FIRST, SECOND = "first-first-first-1", "second-second-second"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(FIRST + "\n")
    path.chmod(0o600)
    return path


def replaced(path: Path, text: str) -> None:
    """Write a file as secrets are renewed: a new one takes the old one's place."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_without_files_nothing_is_presented_and_all_is_taken() -> None:
    assert OPEN.metadata() == ()
    assert not OPEN.wants_token
    assert OPEN.refusal([]) == ""
    assert OPEN.of_channel() is None
    assert OPEN.of_server() is None


def test_a_token_is_presented_and_asked_for(token_file: Path) -> None:
    credentials = Credentials(Security(token_file=str(token_file)))
    assert credentials.metadata() == (("authorization", f"Bearer {FIRST}"),)
    assert credentials.refusal([f"Bearer {FIRST}"]) == ""
    assert credentials.refusal([f"bearer  {FIRST} "]) == ""


@pytest.mark.parametrize(
    "presented",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [FIRST],
        [f"Basic {FIRST}"],
        [f"Bearer {FIRST}x"],
        [f"Bearer {FIRST[:-1]}"],
        [f"Bearer {FIRST} {FIRST}"],
        [f"Bearer {FIRST}", f"Bearer {FIRST}"],
        ["Bearer \udcff\x00é"],
        [b"\xff\xfe\x00"],
        ["Bearer " + "x" * 1_000_000],
    ],
)
def test_anything_else_is_refused_and_not_told(token_file: Path, presented: list[str | bytes]) -> None:
    refusal = Credentials(Security(token_file=str(token_file))).refusal(presented)
    assert "token" in refusal
    assert FIRST not in refusal
    assert len(refusal) < 100


def test_two_tokens_are_taken_while_one_takes_the_place_of_the_other(token_file: Path) -> None:
    credentials = Credentials(Security(token_file=str(token_file)))
    replaced(token_file, f"{FIRST}\n{SECOND}\n")
    assert credentials.metadata()[0][1] == f"Bearer {FIRST}"
    assert credentials.refusal([f"Bearer {SECOND}"]) == ""
    replaced(token_file, f"{SECOND}\n")
    assert credentials.metadata()[0][1] == f"Bearer {SECOND}"
    assert credentials.refusal([f"Bearer {FIRST}"]) != ""


@pytest.mark.parametrize("broken", ["", "short", "x" * 2_000_000])
def test_a_file_that_cannot_be_used_any_more_changes_nothing(
    token_file: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(Security(token_file=str(token_file)))
    with caplog.at_level(logging.WARNING):
        replaced(token_file, broken)
        for _ in range(3):
            assert credentials.refusal([f"Bearer {FIRST}"]) == ""
        token_file.unlink()
        assert credentials.refusal([f"Bearer {FIRST}"]) == ""
    assert len(caplog.records) == 2  # once for each change
    assert FIRST not in caplog.text
    replaced(token_file, SECOND)
    assert credentials.refusal([f"Bearer {SECOND}"]) == ""


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"short", "5 characters"), (b"\xff" * 20, "ASCII")]
)
def test_a_file_that_cannot_be_used_at_the_start(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=why) as raised:
        Credentials(Security(token_file=str(path)))
    assert str(path) in raised.value.message


def test_a_file_that_everyone_can_read_is_warned_of(token_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    Credentials(Security(token_file=str(token_file)))
    assert not caplog.records
    token_file.chmod(0o644)
    Credentials(Security(token_file=str(token_file)))
    assert "chmod 600" in caplog.text
    assert FIRST not in caplog.text


def test_certificates_that_do_not_belong_together(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    cert, _ = authority.issue("a", "DNS:a")
    _, other_key = authority.issue("b", "DNS:b")
    for key, why in ((other_key, "not of one pair"), (tmp_path / "none", "none: No such file"), (cert, "in PEM")):
        with pytest.raises(InvalidConfig, match=why):
            Credentials(Security(tls_cert=str(cert), tls_key=str(key), tls_ca=str(authority.cert)))
    junk = tmp_path / "junk"
    junk.write_text("junk")
    with pytest.raises(InvalidConfig, match="CA is no certificate"):
        Credentials(Security(tls_cert=str(cert), tls_key=str(authority.directory / "a.key"), tls_ca=str(junk)))


def test_nothing_shows_what_files_hold(tmp_path: Path, token_file: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    cert, key = authority.issue("a", "DNS:a")
    credentials = Credentials(Security(str(token_file), str(cert), str(key), str(authority.cert)))
    assert credentials.of_channel() is not None
    assert credentials.of_server() is not None
    shown = repr(credentials) + repr(vars(vars(credentials)["_tls"]))
    assert key.read_text()[30:60] not in shown
