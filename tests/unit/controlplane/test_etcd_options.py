"""How an etcd is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.etcd_options import EtcdOptions, channel_arguments, channel_target, is_literal, parse_endpoint
from mesh.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2379", ("127.0.0.1", 2379)),
        ("etcd", ("etcd", 2379)),
        ("etcd.example:1", ("etcd.example", 1)),
        ("[::1]", ("::1", 2379)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_endpoints(text: str, address: tuple[str, int]) -> None:
    assert parse_endpoint(text) == address


@pytest.mark.parametrize("text", ["", ":2379", "a:", "a:b", "a:0", "a:65536", "::1", "[]:1", "[::1]1", "http://a:1"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_endpoint(text)
    assert caught.value.problems[0].field == "etcd.endpoints"
    assert caught.value.hint


def test_targets() -> None:
    assert channel_target([("127.0.0.1", 1)]) == "ipv4:127.0.0.1:1"
    assert channel_target([("10.0.0.1", 1), ("10.0.0.2", 2)]) == "ipv4:10.0.0.1:1,10.0.0.2:2"
    assert channel_target([("::1", 1)]) == "ipv6:[::1]:1"
    assert channel_target([("::1", 1), ("10.0.0.2", 2)]) == "ipv6:[::1]:1,[::ffff:10.0.0.2]:2"


def test_literals_need_no_look_up() -> None:
    assert is_literal("10.0.0.1")
    assert is_literal("::1")
    assert not is_literal("localhost")


def test_the_root_stands_before_every_key() -> None:
    options = EtcdOptions(("a:1", "b:2"), "/mesh/x")
    assert options.root == "/mesh/x/"
    assert replace(options, prefix="mesh/").root == "mesh/"
    assert replace(options, prefix="/").root == ""
    assert replace(options, prefix="").root == ""
    assert options.addresses() == (("a", 1), ("b", 2))
    assert options.names == "a:1, b:2"


def test_members_certificates_hold_the_first_hosts_name_unless_told_otherwise() -> None:
    options = EtcdOptions(("etcd-0.example:1", "etcd-1.example:2"), "")
    assert options.authority == "etcd-0.example"
    assert replace(options, server_name="etcd").authority == "etcd"
    assert ("grpc.ssl_target_name_override", "etcd") in channel_arguments("etcd", tls=True)
    assert ("grpc.default_authority", "[::1]") in channel_arguments("::1", tls=False)
    assert "grpc.ssl_target_name_override" not in dict(channel_arguments("etcd", tls=False))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoints": ()}, "endpoints"),
        ({"cert_cert": "c", "ca_cert": "a"}, "cert_key"),
        ({"cert_cert": "c", "cert_key": "k"}, "ca_cert"),
        ({"user": "u"}, "password_file"),
        ({"password_file": "p"}, "password_file"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
)
def test_options_that_do_not_go_together(change: dict[str, object], field: str) -> None:
    options = replace(EtcdOptions(("a:1",), ""), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig) as caught:
        options.addresses()
    assert caught.value.problems[0].field == f"etcd.{field}"
