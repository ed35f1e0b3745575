"""What passes of a request's headers, what stops, what is added, and what is refused."""

from __future__ import annotations

import pytest

from mesh.errors import HandlerFailed, InvalidConfig
from mesh.gateway.answer import HeadTooLarge, PayloadTooLarge, Unsupported
from mesh.gateway.heads import (
    RequestHead,
    answer_headers,
    check_answer_length,
    check_field,
    check_method,
    check_size,
    given_request_id,
    read_head,
    request_id,
    timeout_s,
)
from mesh.settings import GatewaySettings


def read(*headers: tuple[bytes, bytes], client: str = "10.0.0.9") -> RequestHead:
    return read_head(headers, client=client, scheme="http")


def passed(head: RequestHead) -> list[tuple[bytes, bytes]]:
    return list(zip(head.passed[::2], head.passed[1::2], strict=True))


ADDED = [(b"x-forwarded-for", b"10.0.0.9"), (b"x-forwarded-proto", b"http")]


def test_ordinary_headers_pass_in_order_with_repeats() -> None:
    given = [(b"accept", b"*/*"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"authorization", b"Bearer x")]
    assert passed(read(*given)) == given + ADDED


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"expect", b"x-mesh-deadline", b"x-mesh-", b"x-request-id", b"proxy-authorization", b"proxy-authenticate"),
    ],
)
def test_headers_for_this_hop_and_of_mesh_stop(name: bytes) -> None:
    assert passed(read((name, b"value"), (b"kept", b"1"))) == [(b"kept", b"1"), *ADDED]


@pytest.mark.parametrize("name", [b"x-mesh-model-id", b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"])
def test_a_model_is_named_by_our_header_and_by_ray_serves(name: bytes) -> None:
    head = read((name, b"org/model:v1"), (b"kept", b"1"))
    assert head.model_id == "org/model:v1" and passed(head) == [(b"kept", b"1"), *ADDED]
    assert read((name, b"")).model_id == "" == read().model_id
    assert read((name, b"a"), (b"x-mesh-model-id", b"a")).model_id == "a"


@pytest.mark.parametrize("value", [b"a b", b"a" * 201, b"/a", b"..", b"a/../b", b"a\\b", b"caf\xe9", b"a,b", b"a%2fb"])
def test_a_model_id_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read((b"x-mesh-model-id", value))
    assert caught.value.problems[0].field == "x-mesh-model-id"


def test_two_models_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="twice"):
        read((b"x-mesh-model-id", b"a"), (b"serve_multiplexed_model_id", b"b"))


def test_headers_named_by_connection_stop_wherever_they_stand() -> None:
    head = read((b"x-early", b"1"), (b"connection", b"close, X-Early , x-late"), (b"x-late", b"2"), (b"kept", b"3"))
    assert passed(head) == [(b"kept", b"3"), *ADDED]


def test_forwarded_headers_say_who_asked_for_what() -> None:
    head = read(
        (b"host", b"shop.example"),
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-for", b"2.2.2.2"),
        (b"x-forwarded-proto", b"gopher"),
        (b"x-forwarded-host", b"evil.example"),
    )
    assert passed(head) == [
        (b"host", b"shop.example"),
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, 10.0.0.9"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"shop.example"),
    ]


def test_length_and_chunks_are_known() -> None:
    assert read((b"content-length", b"12")).content_length == 12
    assert read((b"transfer-encoding", b"chunked")).chunked
    assert read().content_length == -1 and not read().chunked


@pytest.mark.parametrize("value", [b"-1", b"1.5", b"", b"ten", b"1 2", b"+4", b"1" * 20, b"0" * 5000 + b"4"])
def test_a_length_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidConfig, match="content-length"):
        read((b"content-length", value))


@pytest.mark.parametrize("value", [b"a", b"A-1_2.3:4/5+6=7@8", b"x" * 128])
def test_a_fit_request_id_is_honoured(value: bytes) -> None:
    assert read((b"x-request-id", value)).request_id == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\tb", b"\xc3\xbc", b'"'])
def test_an_unfit_request_id_is_not(value: bytes) -> None:
    assert request_id(value) == ""


def test_a_given_request_id_is_found_among_headers() -> None:
    assert given_request_id([(b"a", b"b"), (b"x-request-id", b"mine")]) == "mine"
    assert given_request_id([(b"x-request-id", b"not fit")]) == given_request_id([]) == ""


def test_a_timeout_is_read() -> None:
    assert read((b"x-request-timeout-seconds", b" 2.5 ")).timeout_s == 2.5
    assert read().timeout_s == 0.0


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"inf", b"1e999", b"", b"soon", b"\xff", b"1_0"])
def test_a_timeout_that_is_none_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(InvalidConfig, match="x-request-timeout-seconds"):
        timeout_s(value)


def test_two_hosts_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="host"):
        read((b"host", b"a"), (b"host", b"a"))


@pytest.mark.parametrize("method", ["GET", "PURGE", "M-SEARCH", "x" * 32])
def test_methods_that_are_words_pass(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\nX: 1", "GÉT", "GET/", "\0"])
def test_methods_that_are_none_are_refused(method: str) -> None:
    with pytest.raises(InvalidConfig, match="method"):
        check_method(method)


@pytest.mark.parametrize("method", ["CONNECT", "x" * 33])
def test_methods_that_no_handler_gets(method: str) -> None:
    with pytest.raises(Unsupported):
        check_method(method)


@pytest.mark.parametrize(("name", "value"), [("x a", "1"), ("", "1"), ("x:", "1"), ("x", "a\r\nb"), ("x", "\0")])
def test_fields_that_http_could_not_carry(name: str, value: str) -> None:
    check_field("x-a", "a value\twith a tab and ü")
    with pytest.raises(InvalidConfig, match="headers"):
        check_field(name, value)


ANSWERED = [b"content-length", b"3", b"x-a", b"1", b"connection", b"close", b"x-request-id", b"theirs", b"x-a", b"2"]


def test_an_answers_headers_pass_but_those_of_the_hop() -> None:
    kept = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-request-id", b"ours")]
    assert answer_headers(ANSWERED, "ours", framed_here=False) == [(b"content-length", b"3"), *kept]


def test_a_length_that_is_counted_here_is_not_taken_from_the_handler() -> None:
    assert b"content-length" not in dict(answer_headers(ANSWERED, "ours", framed_here=True))


@pytest.mark.parametrize("lengths", [[b"3", b"3"], [b"-3"], [b"three"], [b""], [b"9" * 20]])
def test_lengths_that_no_answer_may_have(lengths: list[bytes]) -> None:
    check_answer_length([(b"x-a", b"1"), (b"content-length", b"10")])
    with pytest.raises(HandlerFailed, match="content-length"):
        check_answer_length([(b"content-length", length) for length in lengths])


def test_sizes_are_held_to_the_settings() -> None:
    settings = GatewaySettings(header_count_max=3, header_bytes_max=100, body_bytes_max=10)
    head = RequestHead(passed=[b"n", b"v" * 50], content_length=10)
    check_size(head, settings, fields=3, path_bytes=40, query_bytes=9)
    with pytest.raises(HeadTooLarge, match="more than 3"):
        check_size(head, settings, fields=4, path_bytes=1, query_bytes=0)
    with pytest.raises(HeadTooLarge, match="more than 100 bytes"):
        check_size(head, settings, fields=1, path_bytes=41, query_bytes=9)
    head.content_length = 11
    with pytest.raises(PayloadTooLarge, match="10 bytes"):
        check_size(head, settings, fields=1, path_bytes=1, query_bytes=0)
