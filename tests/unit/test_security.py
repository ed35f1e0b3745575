"""The rule of what may listen where, and what a token file may hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import mesh
from mesh.cli import local
from mesh.errors import InvalidConfig
from mesh.security import (
    NO_SECURITY,
    TOKEN_CHARS_MAX,
    TOKENS_MAX,
    Security,
    check_files,
    check_listener,
    is_loopback,
    tokens_in,
)

TLS = Security(tls_cert="/c", tls_key="/k", tls_ca="/a")
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost", "::ffff:127.0.0.1"]
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_listener("it", host, NO_SECURITY)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "[::]",
        "10.0.0.7",
        "127.0.0.1.a.org",
        "localhost.",
        "host",
        "127.1",
        "::ffff:10.0.0.1",
    ],
)
def test_beyond_loopback_a_listener_needs_token_or_tls_or_to_be_told(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidConfig) as raised:
        check_listener("the control plane", host, NO_SECURITY)
    assert "the control plane" in raised.value.message
    for flag in ("--token-file", "--tls-cert", "--tls-key", "--tls-ca", "--insecure"):
        assert flag in raised.value.hint
    for enough in (Security(token_file="/t"), TLS, Security(insecure=True)):
        check_listener("the control plane", host, enough)


@pytest.mark.parametrize("left_out", ["tls-cert", "tls-key", "tls-ca"])
def test_tls_is_mutual_or_not_there(left_out: str) -> None:
    check_files(NO_SECURITY)
    check_files(replace(TLS, token_file="/t", tls_server_name="mesh"))
    cert, key, ca = ("" if name == left_out else "/f" for name in ("tls-cert", "tls-key", "tls-ca"))
    with pytest.raises(InvalidConfig, match=f"--{left_out} not given"):
        check_files(Security("", cert, key, ca))


def test_a_server_name_is_for_tls() -> None:
    with pytest.raises(InvalidConfig, match="without TLS"):
        check_files(Security(token_file="/t", tls_server_name="mesh"))


def test_one_token_a_line_the_first_is_presented() -> None:
    assert tokens_in(TOKEN) == (TOKEN,)
    assert tokens_in(f"{TOKEN}\r\n\n  {TOKEN}2  \n") == (TOKEN, f"{TOKEN}2")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no token"),
        ("\n \n", "no token"),
        ("short", "5 characters"),
        (f"{TOKEN}\nfifteen-letters", "the second"),
        ("x" * (TOKEN_CHARS_MAX + 1), "characters"),
        ("two words are no token", "spaces"),
        ("geheim-geheim-geheim-é", "ASCII"),
        ("control\x01characters-", "ASCII"),
        (f"{TOKEN}\n" * (TOKENS_MAX + 1), "at most 8"),
    ],
)
def test_what_is_no_token_file(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        tokens_in(text)
    for line in filter(None, map(str.strip, text.splitlines())):
        assert line not in str(raised.value)


def test_ports_are_bound_and_channels_made_in_one_place() -> None:
    """Whoever needs a port or a channel between parts of mesh asks `connection`, which asks for credentials."""
    theirs = {"gateway/grpc_front.py", "cli/grpc_call.py", "controlplane/etcd_connection.py"}  # clients' and etcd's
    words = re.compile(r"\b(add_(in)?secure_port|(in)?secure_channel|grpc\.(aio\.)?server)\(")
    package = Path(mesh.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if words.search(path.read_text())}
    assert found - theirs == {"connection.py"}


@pytest.mark.parametrize(
    ("listens", "reached"),
    [
        ("0.0.0.0:7070", "127.0.0.1:7070"),
        ("[::]:7070", "[::1]:7070"),
        ("10.0.0.7:1", "10.0.0.7:1"),
        ("[::1]:1", "[::1]:1"),
    ],
)
def test_where_a_whole_mesh_reaches_its_own_control_plane(listens: str, reached: str) -> None:
    assert local._here(listens) == reached
