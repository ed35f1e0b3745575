"""REST for servicers, one request and one answer: a real gateway, a real replica, real HTTP clients."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.data_path import Connection
from tests.support.rest import BARE, RestPath, rest_path, told

pytestmark = pytest.mark.asyncio(loop_scope="module")
HIDDEN = "The handler failed; the log has the reason under this request id."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RestPath]:
    async with rest_path(tmp_path_factory.mktemp("rest"), message_bytes_max=1_000_000) as path:
        await path.serve()
        yield path


async def test_a_body_a_path_and_a_query(rest: RestPath) -> None:
    answer = await rest.do(id="a", count=3, data="AAEC")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["x-request-id"]
    assert answer.json() == {"text": "a", "count": 3, "data": "AAEC"}
    assert (await rest.get("/v1/do/total?numbers=1.5&numbers=2")).json() == {
        "total": "3",
        "count": 2,
    }  # as user code cut it
    put = await rest.client.put(rest.url("/v1/do/total?id=x"), json=[1, 2])
    assert put.json() == {"total": "3", "count": 2}
    assert (await rest.post(BARE, json={"id": "b"})).json() == {"text": "b"}


async def test_the_clients_request_id_is_kept(rest: RestPath) -> None:
    answer = await rest.do("abort", id="x", count=5, headers={"x-request-id": "mine"})
    assert told(answer, 404, "NOT_FOUND", "x")["request_id"] == "mine"


async def test_response_body(rest: RestPath) -> None:
    assert (await rest.get("/v1/words/words")).json() == ["a", "b"]
    assert (await rest.get("/v1/words/other")).json() == []


async def test_head_runs_get(rest: RestPath) -> None:
    connection = await Connection.open(rest.gateways.gateway.http_address)
    connection.send(b"HEAD /v1/do/words HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/do/words HTTP/1.1\r\nhost: x\r\n\r\n")
    head, (status, headers, body) = await connection.head(), await connection.answer()
    assert (head[0], status) == (200, 200)
    assert head[1]["content-length"] == headers["content-length"] == str(len(body))
    assert head[1]["content-type"] == "application/json"
    await connection.close()
    missing = await rest.client.head(rest.url("/v1/do/abort?count=5"))
    assert (missing.status_code, missing.content) == (404, b"")


async def test_a_wrong_method_is_405_with_allow(rest: RestPath) -> None:
    answer = await rest.client.patch(rest.url("/v1/do"), json={})
    told(answer, 405, "UNIMPLEMENTED", "'/v1/do' has no PATCH")
    assert answer.headers["allow"] == "POST"
    assert (await rest.client.delete(rest.url("/v1/do/x"))).headers["allow"] == "GET, HEAD, PUT"
    assert (await rest.get(BARE)).headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "field", "detail"),
    [
        ("GET", "/v1/none", {}, 404, "", "no method is served at '/v1/none'; /-/openapi.json lists the methods"),
        ("GET", "/v1/do/%zz", {}, 400, "", None),
        ("GET", "/v1/do/x?nope=1", {}, 400, "nope", None),
        ("GET", "/v1/do/x?count=1&count=2", {}, 400, "count", None),
        ("GET", "/v1/do/x?count=a", {}, 400, "count", None),
        ("GET", "/v1/do/x?what=y", {}, 400, "what", None),
        ("POST", "/v1/do?id=x", {"json": {}}, 400, "id", None),
        ("POST", "/v1/do", {"json": {"nope": 1}}, 400, "nope", None),
        ("POST", "/v1/do", {"json": {"numbers": [1, "x"]}}, 400, "numbers[1]", None),
        ("POST", "/v1/do", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "", None),
        ("POST", "/v1/do", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "", None),
        ("POST", "/v1/do", {"content": b"{}"}, 415, "", "the content type must be application/json"),
        ("POST", "/v1/do", {"data": {"id": "x"}}, 415, "", None),
        (
            *(
                "POST",
                "/v1/do",
                {"content": b"x", "headers": {"content-type": "application/json", "content-encoding": "gzip"}},
            ),
            *(415, "", "bodies with the content encoding 'gzip' are not taken"),
        ),
    ],
)
async def test_what_a_client_gets_wrong(
    rest: RestPath, method: str, path: str, options: dict[str, Any], status: int, field: str, detail: str | None
) -> None:
    answer = await rest.client.request(method, rest.url(path), **options)
    code = "UNIMPLEMENTED" if status == 404 else "INVALID_ARGUMENT"
    problem = told(answer, status, code, detail)
    assert problem.get("field", "") == field
    assert problem["detail"]
    await rest.until_free()


async def test_a_body_where_none_is_mapped(rest: RestPath) -> None:
    answer = await rest.client.request(
        "GET", rest.url("/v1/do/x"), content=b"{}", headers={"content-type": "application/json"}
    )
    told(answer, 400, "INVALID_ARGUMENT", "this method takes no body")


STATUSES = [
    *((1, "CANCELLED", 499), (2, "UNKNOWN", 500), (3, "INVALID_ARGUMENT", 400), (4, "DEADLINE_EXCEEDED", 504)),
    *((5, "NOT_FOUND", 404), (6, "ALREADY_EXISTS", 409), (7, "PERMISSION_DENIED", 403), (8, "RESOURCE_EXHAUSTED", 429)),
    *((9, "FAILED_PRECONDITION", 400), (10, "ABORTED", 409), (11, "OUT_OF_RANGE", 400), (12, "UNIMPLEMENTED", 501)),
    *((13, "INTERNAL", 500), (14, "UNAVAILABLE", 503), (15, "DATA_LOSS", 500), (16, "UNAUTHENTICATED", 401)),
]


@pytest.mark.parametrize(("number", "code", "status"), STATUSES)
async def test_each_status_of_user_code(rest: RestPath, number: int, code: str, status: int) -> None:
    answer = await rest.do("abort", count=number, id="as it says")
    problem = told(answer, status, code, "as it says")
    assert problem["reason"] == "METHOD_STATUS"
    assert "retry-after" not in answer.headers and "x-own" not in answer.headers


@pytest.mark.parametrize("number", [17, 99, -1, 2_147_483_647])
async def test_a_status_code_that_is_none(rest: RestPath, number: int) -> None:
    told(await rest.do("code", count=number, id="odd"), 500, "UNKNOWN", "odd")


async def test_details_of_a_status_are_expanded(rest: RestPath) -> None:
    problem = told(await rest.do("rich"), 400, "INVALID_ARGUMENT", "rich")
    info, bad, own, unknown, broken = problem["details"]
    assert info == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        **{"reason": "WRONG", "domain": "rest", "metadata": {"key": "value"}},
    }
    assert bad["fieldViolations"] == [{"field": "what", "description": "is wrong"}]
    assert own == {"@type": "type.googleapis.com/rest.v1.Told", "text": "own", "total": "7"}
    assert unknown == {"@type": "type.googleapis.com/no.such.Type", "value": "CAE="}
    assert broken == {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "value": "/w=="}


async def test_details_that_are_none(rest: RestPath) -> None:
    problem = told(await rest.do("broken-details"), 409, "ABORTED", "odd")
    assert problem.get("details", []) == []


async def test_an_odd_message_is_told_as_it_is(rest: RestPath) -> None:
    told(await rest.do("odd-message"), 409, "ABORTED", 'a%\r\n\0"é😈\u2028')


@pytest.mark.parametrize("what", ["raises", "nothing"])
async def test_what_user_code_raised_is_in_the_log_only(rest: RestPath, what: str) -> None:
    answer = await rest.do(what)
    told(answer, 500, "INTERNAL", HIDDEN)
    assert "secret" not in answer.text and "Traceback" not in answer.text
    await rest.until_free()


async def test_an_applications_quota_is_429_whatever_it_says(rest: RestPath) -> None:
    answer = await rest.do("quota", headers={"x-mesh-shed": "1", "grpc-status": "14"})
    problem = told(answer, 429, "RESOURCE_EXHAUSTED", "your quota is used up")
    assert problem["reason"] == "METHOD_STATUS"
    assert "retry-after" not in answer.headers
    assert problem["request_id"] != "forged"


async def test_forged_marks_change_nothing(rest: RestPath) -> None:
    answer = await rest.do("forged", headers={"x-mesh-shed": "1", "grpc-status": "8", "x-mesh-origin": "gateway"})
    assert (answer.status_code, answer.json()) == (200, {"text": "as usual"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-kept"] == "yes" and answer.headers["x-request-id"] != "forged"
    assert not {name for name in answer.headers if name.startswith(("x-mesh", "grpc-status", "grpc-message"))}
    seen = json.loads((await rest.do("seen", headers={"x-mesh-shed": "1", "grpc-status": "8"})).json()["text"])
    assert not [name for name, _ in seen["metadata"] if name.startswith(("x-mesh", "grpc-"))]


async def test_initial_metadata_is_told_in_headers(rest: RestPath) -> None:
    answer = await rest.do("metadata")
    assert answer.headers.get_list("x-first") == ["yes", "again"]
    assert base64.b64decode(answer.headers["x-first-bin"]) == b"\0\xff"
    assert "x-last" not in answer.headers


async def test_a_header_that_would_split_the_answer_is_refused_in_the_replica(rest: RestPath) -> None:
    answer = await rest.do("split")
    assert answer.status_code == 500 and "x-forged" not in answer.headers
    await rest.until_event("refused in the replica")


async def test_headers_are_metadata(rest: RestPath) -> None:
    headers: list[tuple[Any, Any]] = [
        *(("x-own", "yes"), ("X-Own", "again"), ("x-data-bin", base64.b64encode(b"\0\xff").decode().rstrip("="))),
        *(("x-two-bin", "AA==,AQ"), ("authorization", "Bearer x"), ("connection", "x-private"), ("x-private", "1")),
        *(("x-request-id", "mine"), ("application", "other"), ("x-odd", "é".encode())),
        *(("traceparent", "00-1-2-01"), ("content-type", "application/json")),
    ]
    answer = await rest.client.post(rest.url("/v1/do"), headers=headers, content=b'{"what": "seen"}')
    seen = json.loads(answer.json()["text"])
    metadata = [tuple(pair) for pair in seen["metadata"]]
    assert [value for name, value in metadata if name == "x-own"] in (["yes", "again"], ["yes, again"])
    assert ("x-data-bin", "00ff") in metadata and ("authorization", "Bearer x") in metadata
    assert [value for name, value in metadata if name == "x-two-bin"] == ["00", "01"]
    assert ("x-request-id", "mine") in metadata and ("traceparent", "00-1-2-01") in metadata
    names = {name for name, _ in metadata}
    assert not names & {"x-private", "connection", "application", "content-type", "content-length", "host", "x-odd"}
    assert ("x-forwarded-for", "127.0.0.1") in metadata
    assert seen["peer"].startswith("ipv4:127.0.0.1:") and 0 < seen["time_remaining"] <= 60


@pytest.mark.parametrize("value", ["a", "%%%", "AA=A", "Zg==Zg", "a b"])
async def test_a_binary_header_that_is_none_harms_no_other_call(rest: RestPath, value: str) -> None:
    beside = rest.gateways.gateway.pipeline.tasks.spawn(rest.do("gated", id=value, gate=value), name="beside")
    await rest.until_event(f"start {value}")
    answer = await rest.do(id="a", headers={"x-wrong-bin": value})
    told(answer, 400, "INVALID_ARGUMENT", "x-wrong-bin: must be base64, for its name ends in -bin")
    rest.open(value)
    assert (await beside).json() == {"text": value}


async def test_an_http_body_travels_as_it_is(rest: RestPath) -> None:
    answer = await rest.post("/v1/file", content=b"\0\1\xff", headers={"content-type": "image/png"})
    assert (answer.headers["content-type"], answer.content) == ("image/png", b"\xff\1\0")
    empty = await rest.post("/v1/file")
    assert (empty.status_code, empty.headers["content-type"], empty.content) == (200, "application/octet-stream", b"")
    form = await rest.post("/v1/file", files={"x": b"content"})
    assert form.headers["content-type"].startswith("multipart/form-data; boundary=")
    split = await rest.post("/v1/file", content=b"x", headers={"content-type": "a/b;" + "c" * 300})
    told(split, 500, "INTERNAL", HIDDEN)


async def test_a_body_over_the_limit_is_413(rest: RestPath) -> None:
    connection = await Connection.open(rest.gateways.gateway.http_address)
    start = b"POST /v1/file HTTP/1.1\r\nhost: x\r\ncontent-type: a/b\r\n"
    connection.send(start + b"content-length: 2000000\r\n\r\n")  # and nothing of it
    status, _, body = await connection.answer()
    assert (status, json.loads(body)["reason"]) == (413, "BODY_TOO_LARGE")
    await connection.close()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(100_000)

    told(await rest.post("/v1/file", content=endless()), 413, "INVALID_ARGUMENT")
    numbers = b'{"what": "total", "numbers": [' + b"1," * 200_000 + b"1]}"  # 8 bytes each when packed
    answer = await rest.post("/v1/do", content=numbers, headers={"content-type": "application/json"})
    told(answer, 413, "INVALID_ARGUMENT", "the message is larger than 1000000 bytes")
    await rest.until_free()


async def test_bodies_up_to_the_limit(rest: RestPath) -> None:
    data = bytes(999_000)
    answer = await rest.post("/v1/file", content=data, headers={"content-type": "a/b"})
    assert answer.content == data
    text = base64.b64encode(data).decode()
    assert (await rest.do(data=text)).json() == {"data": text}
    numbers = {"what": "total", "numbers": [1.0] * 100_000}
    assert (await rest.post("/v1/do", json=numbers)).json() == {"total": "100000", "count": 100_000}


async def test_an_answer_over_the_limit_is_the_applications_fault(rest: RestPath) -> None:
    told(await rest.do("size", count=1_100_000), 500, "RESOURCE_EXHAUSTED")
    await rest.until_free()


async def test_http_2_does_the_same(rest: RestPath) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        assert (await client.post(rest.url("/v1/do"), json={"id": "two"})).json() == {"text": "two"}
        assert (await client.get(rest.url("/v1/words/words"))).json() == ["a", "b"]
        head = await client.head(rest.url("/v1/do/x"))
        assert (head.status_code, head.content) == (200, b"")
        told(await client.patch(rest.url("/v1/do")), 405, "UNIMPLEMENTED")
