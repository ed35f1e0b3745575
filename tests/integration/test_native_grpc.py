"""Native gRPC on the data path: generated stubs, a real gateway, real replicas.

Limits, deadlines, cancellation, lost replicas, routing by service, drain, and that nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2

from tests.support import grpc_wire
from tests.support.data_path import finish
from tests.support.gateways import until
from tests.support.native import (
    PROBE,
    SECOND,
    WAIT_S,
    NativePath,
    ask,
    module,
    native_path,
    refused,
    stub_of,
    trailers,
    until_done,
)

DETAIL = "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2)."
KINDS = ["asynchronous", "synchronous"]
METHODS = ["Unary", "Many", "Sum", "Chat"]
REPEATS = 20
MIB = 1024 * 1024


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[NativePath]:
    async with native_path(tmp_path) as path:
        yield path


def begin(stub: Any, method: str, request: Message, **options: Any) -> Any:
    """Start a call of any kind with one request message."""
    call = getattr(stub, method)
    options = {"timeout": WAIT_S, **options}
    return call(iter((request,)), **options) if method in ("Sum", "Chat") else call(request, **options)


async def only(call: Any) -> Any:
    """Return the one message of an answer, whether it is a stream or not."""
    if not hasattr(call, "read"):
        return await call
    messages = [message async for message in call]
    assert len(messages) == 1
    return messages[0]


def is_of_the_client(error: grpc.aio.AioRpcError) -> bool:
    """Whether grpc.aio put its own status in the place of ours.

    It does so if an answer comes while it still sends a message of a stream: sending fails, and it looks no further.
    """
    return (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal error from Core")


def check_shed(error: grpc.aio.AioRpcError) -> None:
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, DETAIL)
    told = trailers(error)
    assert int(told["grpc-retry-pushback-ms"]) >= 1
    status = Status.FromString(told["grpc-status-details-bin"])
    found, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(found) and status.details[1].Unpack(retry)
    assert (found.reason, found.domain) == ("OVERLOADED", "mesh")
    assert found.metadata["request_id"] == told["x-request-id"]
    assert retry.retry_delay.ToMilliseconds() == int(told["grpc-retry-pushback-ms"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
async def test_of_nine_at_once_four_are_served_and_five_are_shed(path: NativePath, kind: str, method: str) -> None:
    await path.serve(kind)
    for repeat in range(REPEATS):
        calls = [begin(path.stub, method, ask(what="gated", id=str(i), gate=str(repeat))) for i in range(9)]
        tasks = [asyncio.ensure_future(only(call)) for call in calls]
        await until_done(tasks, 5)
        assert (path.gateways.dispatcher().in_flight, path.gateways.dispatcher().queued) == (2, 2)
        await path.until_started(4 * repeat + 2)
        path.open(str(repeat))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        shed = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        answered = [outcome.text for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert (len(answered), len(shed)) == (4, 5)
        told = [error for error in shed if method == "Unary" or not is_of_the_client(error)]
        assert told
        for error in told:
            check_shed(error)
        await path.gateways.idle()
    assert max(map(int, path.events("most "))) == 2
    assert len(path.events("start ")) == 4 * REPEATS
    await path.until_free()


@pytest.mark.parametrize("method", ["Unary", "Chat"])
async def test_a_shed_is_trailers_only_and_http_200(path: NativePath, method: str) -> None:
    await path.serve("asynchronous", ongoing=1, queued=0)
    running = begin(path.stub, "Unary", ask(what="gated", id="1", gate="go"))
    await path.until_event("start 1")
    answer = await grpc_wire.call(
        path.gateways.gateway.grpc_address, f"/{PROBE}/{method}", [grpc_wire.framed(ask().SerializeToString())]
    )
    assert (answer.headers[":status"], answer.headers["grpc-status"]) == ("200", "8")
    assert not answer.trailers and not answer.data
    assert "grpc-retry-pushback-ms" in answer.headers and "grpc-status-details-bin" in answer.headers
    path.open("go")
    await running


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_passes_while_a_call_runs(path: NativePath, kind: str, method: str) -> None:
    await path.serve(kind)
    error = await refused(only(begin(path.stub, method, ask(what="gated", id="1", gate="never"), timeout=0.4)))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await path.until_event("cancelled 1 True")
    await path.until_free()


@pytest.mark.parametrize("method", METHODS)
async def test_a_deadline_passes_while_a_call_waits_and_it_never_runs(path: NativePath, method: str) -> None:
    await path.serve("asynchronous", ongoing=1)
    running = begin(path.stub, "Unary", ask(what="gated", id="1", gate="go"))
    await path.until_event("start 1")
    error = await refused(only(begin(path.stub, method, ask(what="gated", id="2"), timeout=0.3)))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await path.until_queued(0)
    path.open("go")
    assert (await running).text == "1"
    await path.until_free()
    assert path.events("start ") == ["1"]


@pytest.mark.parametrize("waiting", [False, True])
async def test_the_deployments_timeout_holds_where_the_client_sets_none(path: NativePath, waiting: bool) -> None:
    await path.serve("asynchronous", ongoing=1, timeout_s=0.4)
    first = path.stub.Unary(ask(what="gated", id="1", gate="never"))
    await path.until_event("start 1")
    call = path.stub.Unary(ask(what="gated", id="2", gate="never")) if waiting else first
    error = await refused(call)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer than 0.4 s" in str(error.details())
    await path.until_free()


@pytest.mark.parametrize("method", METHODS)
async def test_a_cancelled_async_method_keeps_its_slot_until_it_has_ended(path: NativePath, method: str) -> None:
    await path.serve("asynchronous", ongoing=1, queued=5)
    call = begin(path.stub, method, ask(what="gated", id="1", gate="never", count=0 if method == "Many" else 1))
    task = asyncio.ensure_future(only(call))
    await path.until_event("start 1")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await path.until_event("cancelled 1 True")
    if method != "Many":  # there, `count` is something else
        second = begin(path.stub, "Unary", ask(id="2"))
        await path.until_queued(1)
        assert await path.replica.ongoing() == 1
        path.open("clean-1")
        assert (await second).text == "2"
    await path.until_free()


@pytest.mark.parametrize("method", METHODS)
async def test_a_cancelled_sync_method_is_told_and_keeps_its_slot_until_its_thread_is_back(
    path: NativePath, method: str
) -> None:
    await path.serve("synchronous", ongoing=1, queued=5)
    call = begin(path.stub, method, ask(what="gated", id="1", gate="never", count=0 if method == "Many" else 1))
    task = asyncio.ensure_future(only(call))
    await path.until_event("start 1")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await path.until_event("cancelled 1 True")
    await path.until_event("callback 1")
    if method != "Many":
        second = begin(path.stub, "Unary", ask(id="2"))
        await path.until_queued(1)
        assert await path.replica.ongoing() == 1 and "end 1" not in path.events()
        path.open("clean-1")
        assert (await second).text == "2"
    await path.until_free()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_within_its_stream_of_requests_is_no_end_of_it(path: NativePath, kind: str) -> None:
    """A method must not take the half it got for the whole."""
    await path.serve(kind, ongoing=10, queued=0)
    for number in range(20):
        call = path.stub.Sum()
        await call.write(ask(id=str(number)))
        await path.until_event(f"got {number}")
        call.cancel()
        await path.until_free()
    assert path.events("whole ") == []
    assert len(path.events("broken ")) == 20


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_ends_a_stream_of_responses(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    call = path.stub.Many(ask(what="forever", id="1", count=1000))
    for _ in range(3):
        assert len((await call.read()).data) == 1000
    call.cancel()
    await path.until_event("ended 1")
    await path.until_free()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_method_may_answer_before_it_has_read_the_stream(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    for _ in range(5):
        call = path.stub.Sum(timeout=WAIT_S)
        await call.write(ask(what="early"))
        assert (await call).text == "early"
    await path.until_free()


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_a_killed_replica_ran_is_unavailable(path: NativePath, method: str) -> None:
    replica = await path.serve("asynchronous")
    task = asyncio.ensure_future(only(begin(path.stub, method, ask(what="gated", id="1", gate="never"))))
    await path.until_event("start 1")
    await until_accepted(path)
    await replica.kill()
    error = await refused(task)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert status_reason(error) == "REPLICA_LOST"
    await path.gateways.idle()


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_a_lost_replica_never_accepted_goes_to_another(path: NativePath, method: str) -> None:
    first = await path.serve("asynchronous", ongoing=4)
    psutil.Process(first.pid).suspend()
    calls = [begin(path.stub, method, ask(what="gated", id=str(i))) for i in range(4)]
    tasks = [asyncio.ensure_future(only(call)) for call in calls]
    await path.until_running(4)
    second = await path.replica_of("asynchronous", ongoing=4)
    await first.kill()
    await path.gateways.publish(path.routed("asynchronous", second, ongoing=4))
    assert {told.count for told in await asyncio.gather(*tasks)} == {1 if method == "Sum" else second.pid}
    assert sorted(path.events("start ")) == ["0", "1", "2", "3"]
    await path.gateways.idle()


async def test_a_method_declared_idempotent_is_repeated_once(path: NativePath) -> None:
    replicas = [await path.replica_of("asynchronous", ongoing=1) for _ in range(2)]
    await path.gateways.publish(path.routed("asynchronous", *replicas, ongoing=1))
    task = asyncio.ensure_future(path.stub.Repeat(ask(what="gated", id="1", gate="go"), timeout=WAIT_S))
    await path.until_event("start 1")
    await until_accepted(path)
    (busy,) = [link for link in path.gateways.dispatcher()._links.values() if link._calls]
    victim, other = sorted(replicas, key=lambda replica: replica.replica_id != busy.replica_id)
    await victim.kill()
    path.open("go")
    assert (await task).count == other.pid
    assert path.events("start ") == ["1", "1"]


async def until_accepted(path: NativePath) -> None:
    links = path.gateways.dispatcher()._links
    await until(
        lambda: [call.accepted for link in links.values() for call in link._calls.values()] == [True], "it is accepted"
    )


def status_reason(error: grpc.aio.AioRpcError) -> str:
    found = ErrorInfo()
    assert Status.FromString(trailers(error)["grpc-status-details-bin"]).details[0].Unpack(found)
    return str(found.reason)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_class_serves_several_services(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    assert (await path.stub.Unary(ask(id="1"))).text == "1"
    assert (await stub_of(path.channel, "Second").Say(ask(id="2"))).text == "second 2"


async def test_a_service_of_two_applications_is_chosen_by_metadata(path: NativePath) -> None:
    first, second = await path.replica_of("asynchronous"), await path.replica_of("other")
    await path.gateways.publish(
        path.routed("asynchronous", first, name="one", prefix="/one"),
        path.routed("other", second, name="two", prefix="/two"),
    )

    def call(method: str = "Unary", **options: Any) -> Any:
        return only(begin(path.stub, method, ask(id="x"), **options))

    assert (await call(metadata=(("application", "one"),))).text == "x"
    assert (await call(metadata=(("application", "two"),))).text == "other"
    for method in METHODS:
        error = await refused(call(method))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"several applications serve '{PROBE}': one, two" in str(error.details())
        assert "metadata 'application'" in str(error.details())
    error = await refused(call(metadata=(("application", "three"),)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED and "'three'" in str(error.details())
    # What one of them alone serves needs no choice.
    assert (await stub_of(path.channel, "Second").Say(ask(id="2"))).text == "second 2"
    error = await refused(stub_of(path.channel, "Second").Say(ask(), metadata=(("application", "two"),)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "method",
    [f"/{PROBE}/Nothing", "/no.Service/Unary", f"/{PROBE}", "/", f"{PROBE}/Unary", f"//{PROBE}/Unary", "/a/b/c"],
)
async def test_what_nobody_serves_is_unimplemented(path: NativePath, method: str) -> None:
    await path.serve("asynchronous")
    answer = await grpc_wire.call(path.gateways.gateway.grpc_address, method, [grpc_wire.framed(b"")])
    assert answer.status == "12" or (answer.reset is not None and not method.startswith("/"))
    assert (await path.stub.Unary(ask(id="1"))).text == "1"


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_that_the_class_does_not_write_is_unimplemented(path: NativePath, method: str) -> None:
    await path.serve("other")
    if method == "Unary":
        assert (await path.stub.Unary(ask())).text == "other"
        return
    error = await refused(only(begin(path.stub, method, ask())))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")


async def test_before_the_first_snapshot_calls_are_unavailable(path: NativePath) -> None:
    for method in METHODS:
        error = await refused(only(begin(path.stub, method, ask())))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "not heard from a control plane" in str(error.details())


@pytest.mark.parametrize("kind", KINDS)
async def test_all_four_kinds(path: NativePath, kind: str) -> None:
    await path.serve(kind, ongoing=4)
    assert (await path.stub.Unary(ask(id="1", data=b"\0\xff"))).data == b"\0\xff"
    many = [told.count for told in [told async for told in path.stub.Many(ask(count=5))][:-1]]
    assert many == [0, 1, 2, 3, 4]
    assert (await path.stub.Sum(ask(id=str(i)) for i in range(7))).count == 7
    assert (await path.stub.Sum(iter(()))).text == "nothing"
    chat = path.stub.Chat()
    for i in range(5):
        await chat.write(ask(id=str(i)))
        assert (await chat.read()).text == str(i)
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF and await chat.code() is grpc.StatusCode.OK
    assert [told async for told in path.stub.Chat(iter(()))] == []
    await path.until_free()


async def test_methods_that_read_and_write_through_the_context(path: NativePath) -> None:
    await path.serve("styled")
    assert [told.count async for told in path.stub.Many(ask(count=3))] == [0, 1, 2]
    assert (await path.stub.Sum(ask() for _ in range(4))).count == 4
    chat = path.stub.Chat(ask(id=str(i)) for i in range(3))
    assert [told.text async for told in chat] == ["0", "1", "2"]
    assert ("x-own", "yes") in tuple(await chat.trailing_metadata())
    call = path.stub.Many(ask(count=2, what="raise", id="ValueError"))
    assert [(await call.read()).count for _ in range(2)] == [0, 1]
    assert (await refused(call.read())).code() is grpc.StatusCode.INTERNAL
    await path.until_free()


async def test_a_unary_method_that_writes_several_messages_fails_alone(path: NativePath) -> None:
    await path.serve("styled")
    for count in (1, 5, 50):
        error = await refused(path.stub.Unary(ask(count=count, data=bytes(MIB)), timeout=WAIT_S))
        assert error.code() is grpc.StatusCode.INTERNAL
    assert (await path.stub.Unary(ask())).text == "written"
    await path.until_free()


async def check(path: NativePath, service: str) -> Any:
    call = path.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await call(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)).status


def watch(path: NativePath, service: str) -> Any:
    return path.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)


UNKNOWN_SERVICE, SERVING, NOT_SERVING = 3, 1, 2


async def test_health_of_each_service(path: NativePath) -> None:
    watched = watch(path, PROBE)
    assert (await watched.read()).status == UNKNOWN_SERVICE
    assert (await refused(check(path, PROBE))).code() is grpc.StatusCode.NOT_FOUND
    replica = await path.serve("asynchronous")
    if (told := await watched.read()).status == NOT_SERVING:  # it looked between the snapshot and the connection
        told = await watched.read()
    assert told.status == SERVING
    for service in ("", PROBE, SECOND, "mesh.v1.IngressService"):
        assert await check(path, service) == SERVING
    await replica.kill()
    assert (await watched.read()).status == NOT_SERVING
    assert await check(path, PROBE) == NOT_SERVING
    await path.gateways.publish()
    assert (await watched.read()).status == UNKNOWN_SERVICE
    assert (await refused(check(path, PROBE))).code() is grpc.StatusCode.NOT_FOUND
    assert await check(path, "") == SERVING
    watched.cancel()


async def test_health_says_not_serving_on_drain(tmp_path: Path) -> None:
    async with native_path(tmp_path, drain_delay_s=60.0) as path:
        await path.serve("asynchronous", ongoing=4)
        watched = {service: watch(path, service) for service in ("", PROBE)}
        for each in watched.values():
            assert (await each.read()).status == SERVING
        draining = asyncio.ensure_future(path.gateways.gateway.drain())
        for service, each in watched.items():
            assert (await each.read()).status == NOT_SERVING
            assert await check(path, service) == NOT_SERVING
            each.cancel()
        await finish(draining)


async def services(path: NativePath, *metadata: tuple[str, str]) -> set[str]:
    pb = module("native_pb2")  # the generated code is there
    assert pb
    from mesh.gateway.reflectionrpc import reflection_pb2

    call: Any = path.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter((reflection_pb2.ServerReflectionRequest(list_services=""),)), metadata=metadata, timeout=WAIT_S)
    return {each.name for each in (await call.read()).list_services_response.service}


async def test_reflection_lists_what_is_deployed_and_forgets_what_is_deleted(path: NativePath) -> None:
    assert not {PROBE, SECOND} & await services(path)
    replica = await path.serve("asynchronous")
    assert {PROBE, SECOND, "grpc.health.v1.Health"} <= await services(path)
    other = await path.replica_of("other")
    await path.gateways.publish(path.routed("other", other))
    assert PROBE in await services(path) and SECOND not in await services(path)
    await path.gateways.publish()
    assert not {PROBE, SECOND} & await services(path)
    error = await refused(path.stub.Unary(ask()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert replica.pid


async def test_reflection_tells_of_the_application_that_metadata_names(path: NativePath) -> None:
    first, second = await path.replica_of("asynchronous"), await path.replica_of("other")
    await path.gateways.publish(
        path.routed("asynchronous", first, name="one", prefix="/one"),
        path.routed("other", second, name="two", prefix="/two"),
    )
    own = {"grpc.health.v1.Health", "mesh.v1.IngressService"}
    assert own | {PROBE, SECOND} <= await services(path)
    assert own | {PROBE, SECOND} <= await services(path, ("application", "one"))
    told = await services(path, ("application", "two"))
    assert own | {PROBE} <= told and SECOND not in told
    assert not {PROBE, SECOND} & await services(path, ("application", "three"))


async def test_a_large_stream_passes_in_bounded_memory(path: NativePath) -> None:
    """200 MB each way through a bidirectional stream, to a client that reads slowly at first."""
    replica = await path.serve("asynchronous")
    data, count = bytes(MIB), 200
    chat = path.stub.Chat(timeout=50)
    await chat.write(ask(id="warm", data=data))
    await chat.read()
    before = [psutil.Process(pid).memory_info().rss for pid in (os.getpid(), replica.pid)]

    async def send() -> None:
        for i in range(count):
            await chat.write(ask(id=str(i), data=data))
        await chat.done_writing()

    sending = asyncio.ensure_future(send())
    # Nobody reads: the sender must come to a stop, not fill anybody's memory.
    await settled(lambda: len(path.gateways.dispatcher()._links) and sending_state(chat))
    most = [0, 0]
    for i in range(count):
        told = await chat.read()
        assert (told.text, len(told.data)) == (str(i), MIB)
        if i % 10 == 0:
            now = [psutil.Process(pid).memory_info().rss for pid in (os.getpid(), replica.pid)]
            most = [max(a, b - c) for a, b, c in zip(most, now, before, strict=True)]
    await sending
    assert await chat.read() is grpc.aio.EOF and await chat.code() is grpc.StatusCode.OK
    assert max(most) < 96 * MIB, [size // MIB for size in most]
    await path.until_free()


def sending_state(chat: Any) -> bool:
    return not chat.done()


async def settled(condition: Any) -> None:
    """Let the senders run until they wait for their reader; there is no sign of that but time."""
    for _ in range(50):
        assert condition()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_thousand_cancelled_calls_leave_nothing_behind(path: NativePath, kind: str) -> None:
    replica = await path.serve(kind, ongoing=20, queued=20)
    pipeline = path.gateways.gateway.pipeline

    async def cancelled(number: int) -> None:
        calls = []
        for i in range(40):
            method = METHODS[i % 4]
            calls.append(begin(path.stub, method, ask(what="gated", id=f"{number}", gate="never")))
        tasks = [asyncio.ensure_future(only(call)) for call in calls]
        if number % 2:
            await path.until_running(20)
            await path.until_queued(20)
        for call in calls:
            call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await path.until_free()

    await cancelled(1)
    gc.collect()
    tasks, own, theirs = len(asyncio.all_tasks()), psutil.Process().num_fds(), replica.descriptors()
    for number in range(25):
        await cancelled(number)
    await until(lambda: len(asyncio.all_tasks()) <= tasks, f"no task is left, {tasks}: {asyncio.all_tasks()}")
    await until(lambda: len(pipeline.tasks) == 0, "no upload is left")
    assert pipeline._exchanges == 0 and not pipeline.exchanges._young
    assert abs(psutil.Process().num_fds() - own) <= 2 and abs(replica.descriptors() - theirs) <= 2
    assert (await path.stub.Unary(ask(id="after"))).text == "after"


async def test_connections_that_break_free_their_slots(path: NativePath) -> None:
    await path.serve("asynchronous", ongoing=8, queued=8)
    for _ in range(5):
        channel = path.connect()
        stub = stub_of(channel)
        calls = [begin(stub, METHODS[i % 4], ask(what="gated", id="x", gate="never")) for i in range(16)]
        tasks = [asyncio.ensure_future(only(call)) for call in calls]
        await path.until_running(8)
        await path.until_queued(8)
        await channel.close(None)
        await asyncio.gather(*tasks, return_exceptions=True)
        await path.until_free()


async def test_statuses_are_counted_by_their_own_names(path: NativePath) -> None:
    from mesh.telemetry import REQUESTS

    await path.serve("asynchronous")

    def counted(code: str) -> float:
        return sum(count for key, count in REQUESTS.counts.items() if key[0] == "grpc" and key[-1] == code)

    before = {code: counted(code) for code in ("OK", "NOT_FOUND", "CANCELLED", "INTERNAL")}
    await path.stub.Unary(ask())
    await refused(path.stub.Unary(ask(what="code")))
    await refused(only(begin(path.stub, "Chat", ask(what="code"))))
    await refused(path.stub.Unary(ask(what="raise", id="ValueError")))
    call = path.stub.Unary(ask(what="gated", id="1", gate="never"))
    await path.until_event("start 1")
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    await path.until_free()
    await until(partial(_is, counted, "CANCELLED", before["CANCELLED"] + 1), "the cancelled call is counted")
    assert {code: counted(code) - count for code, count in before.items()} == {
        "OK": 1,
        "NOT_FOUND": 2,
        "CANCELLED": 1,
        "INTERNAL": 1,
    }


def _is(counted: Any, code: str, wanted: float) -> bool:
    return bool(counted(code) == wanted)
