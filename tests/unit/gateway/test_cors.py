"""Which headers a browser is told, by who asks and what is configured."""

from __future__ import annotations

from mesh.gateway.cors import Cors, is_preflight, origin_of

APP = b"https://app.example.com"


def policy(*origins: str, credentials: bool = False) -> Cors:
    return Cors(origins, ["X-Api-Key"], 600, allow_credentials=credentials)


def test_an_origin_that_is_named_may_call() -> None:
    told = dict(policy(APP.decode()).answer(APP))
    assert told[b"access-control-allow-origin"] == APP
    assert b"x-request-id" in told[b"access-control-expose-headers"]
    assert told[b"vary"] == b"origin"
    assert b"access-control-allow-credentials" not in told


def test_another_origin_is_told_nothing_but_that_it_matters() -> None:
    assert policy(APP.decode()).answer(b"https://other.example.com") == [(b"vary", b"origin")]
    assert policy(APP.decode()).preflight(b"null") == [(b"vary", b"origin")]


def test_any_origin() -> None:
    assert dict(policy("*").answer(b"null"))[b"access-control-allow-origin"] == b"*"


def test_a_preflight_is_told_methods_headers_and_how_long_it_holds() -> None:
    told = dict(policy(APP.decode(), credentials=True).preflight(APP))
    assert b"PATCH" in told[b"access-control-allow-methods"]
    allowed = told[b"access-control-allow-headers"].split(b", ")
    assert {b"x-api-key", b"content-type", b"connect-protocol-version", b"x-grpc-web"} <= set(allowed)
    assert told[b"access-control-max-age"] == b"600"
    assert told[b"access-control-allow-credentials"] == b"true"


def test_what_a_preflight_is() -> None:
    asks = [(b"origin", APP), (b"access-control-request-method", b"PUT")]
    assert is_preflight("OPTIONS", asks) and origin_of(asks) == APP
    assert not is_preflight("OPTIONS", asks[:1])
    assert not is_preflight("PUT", asks)
    assert origin_of([]) == b""
