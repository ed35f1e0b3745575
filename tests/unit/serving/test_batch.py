"""`@mesh.batch` on a real event loop: functions, methods, threads, streams, and callers that go."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

import mesh
from mesh.clock import SYSTEM
from mesh.errors import DeadlineExceeded, InvalidConfig
from mesh.serving import current_request
from mesh.serving.batch_items import STREAM_RESULTS_MAX
from mesh.serving.current_request import CurrentRequest, Place

pytestmark = pytest.mark.filterwarnings("error")
LONG_S = 600.0


class Model:
    """Batched in every way. It notes what was run, and waits for `gate` if that is not set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.ended: list[str] = []
        self.began = threading.Semaphore(0)
        self.gate = asyncio.Event()
        self.gate.set()

    @mesh.batch(max_batch_size=4, batch_wait_timeout_s=LONG_S)
    async def double(self, values: list[int]) -> list[Any]:
        self.batches.append(values)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return [value * 2 for value in values]

    @mesh.batch(max_batch_size=3, batch_wait_timeout_s=LONG_S)
    async def give(self, values: list[Any]) -> list[Any]:
        return values

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def do(self, works: list[Callable[[], Any]]) -> Any:
        return works[0]()

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    def in_thread(self, values: list[int]) -> list[Any]:
        self.batches.append(values)
        return [(value, threading.current_thread().name) for value in values]

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    def wait_in_thread(self, events: list[threading.Event]) -> list[Any]:
        self.batches.append(events)
        self.began.release()
        events[0].wait()
        return [None for _ in events]

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def add(self, left: list[int], right: list[int]) -> list[int]:
        return [a + b for a, b in zip(left, right, strict=True)]

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def count(self, ends: list[int]) -> AsyncIterator[list[Any]]:
        self.batches.append(ends)
        try:
            for i in range(1000):
                await self.gate.wait()
                self.last = i
                yield [StopIteration if i >= end else i for end in ends]
        finally:
            self.ended.append("closed")

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    def count_in_thread(self, ends: list[int]) -> Iterator[list[Any]]:
        for i in range(max(ends)):
            yield [(i, threading.current_thread().name) if i < end else ValueError(end) for end in ends]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def gathered(*work: Awaitable[Any]) -> list[Any]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*work, return_exceptions=True)


def ask(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


async def test_calls_become_one_with_lists_and_each_gets_its_own() -> None:
    model = Model()
    assert await gathered(*(model.double(i) for i in range(8))) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_several_parameters_by_place_and_by_name() -> None:
    model = Model()
    assert await gathered(model.add(1, 2), model.add(right=4, left=3)) == [3, 7]
    wrong: list[tuple[tuple[int, ...], dict[str, int]]] = [((1,), {}), ((1, 2, 3), {}), ((1,), {"wrong": 2})]
    for args, kwargs in wrong:
        with pytest.raises(TypeError, match="argument"):
            model.add(*args, **kwargs)


async def test_an_exception_in_the_list_fails_its_caller_alone() -> None:
    failed = KeyError("b")
    said = await gathered(*map(Model().give, ("a", failed, asyncio.CancelledError())))
    assert said[:2] == ["a", failed]
    assert isinstance(said[2], RuntimeError), "a cancellation that nobody asked for is an error"


@pytest.mark.parametrize("error", [ValueError("all"), StopIteration(3), SystemExit(3), asyncio.CancelledError()])
async def test_what_is_raised_fails_all(error: BaseException) -> None:
    def work() -> Any:
        raise error

    said = await gathered(*map(Model().do, (work, work)))
    assert all(isinstance(each, ValueError if isinstance(error, ValueError) else RuntimeError) for each in said), said


async def test_a_wrong_number_of_results_is_said() -> None:
    said = await gathered(*map(Model().do, (lambda: [1], lambda: None)))
    assert [str(each) for each in said] == ["Model.do is batched: it was given 2 items and returned 1 results"] * 2
    said = await gathered(*map(Model().do, (lambda: None, lambda: None)))
    assert "returns a list with one result for each item, not NoneType" in str(said[0])


async def test_sync_functions_run_in_threads() -> None:
    said = await gathered(*map(Model().in_thread, range(4)))
    assert [value for value, _ in said] == [0, 1, 2, 3]
    assert all(name.startswith("Model.in_thread") for _, name in said)


async def test_a_function_that_is_no_method() -> None:
    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def double(values: list[int]) -> list[int]:
        return [value * 2 for value in values]

    assert await gathered(double(1), double(2)) == [2, 4]
    double.set_max_batch_size(1)
    assert await double(3) == 6
    assert double.__name__ == "double" and str(inspect.signature(double)) == "(values: 'list[int]') -> 'list[int]'"


async def test_super_and_the_class_itself() -> None:
    class Louder(Model):
        @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
        async def give(self, values: list[int]) -> list[Any]:
            given = super().give
            return (await gathered(*(given(value) for value in (*values, 0))))[:2]

    louder = Louder()
    assert await gathered(louder.give(1), Louder.give(louder, 2)) == [1, 2]


async def test_instances_share_nothing_and_copies_neither() -> None:
    first = Model()
    waits = ask(first.double(1))
    await turns()
    other = copy.copy(first)
    other.double.set_max_batch_size(1)
    other.batches = []
    assert await other.double(5) == 10
    assert not waits.done() and other.batches == [[5]] and first.double.limits.max_batch_size == 4
    waits.cancel()
    assert copy.deepcopy(Plain()).double is not None


class Plain:
    @mesh.batch
    async def double(self, values: list[int]) -> list[int]:
        return values


async def test_state_is_freed_with_its_instance() -> None:
    model = Plain()
    await model.double(1)
    gone = weakref.ref(model)
    await turns()
    gc.collect()  # the task of the last batch
    del model
    assert gone() is None


async def test_an_instance_that_cannot_keep_state_is_told() -> None:
    class Slotted:
        __slots__ = ()

        @mesh.batch
        async def double(self, values: list[int]) -> list[int]:
            return values

    with pytest.raises(TypeError, match="__slots__"):
        await Slotted().double(1)


async def test_who_hangs_up_while_waiting_is_dropped() -> None:
    model = Model()
    calls = [ask(model.double(i)) for i in range(3)]
    await turns()
    calls[1].cancel()
    await turns()
    assert await gathered(calls[0], calls[2], model.double(3), model.double(4)) == [0, 4, 6, 8]
    assert model.batches == [[0, 2, 3, 4]]


async def test_who_hangs_up_disturbs_nobody_and_the_last_one_ends_the_batch() -> None:
    model = Model()
    model.gate.clear()
    calls = [ask(model.double(i)) for i in range(4)]
    await turns()
    calls[0].cancel()
    await turns()
    assert not model.ended
    model.gate.set()
    assert (await gathered(*calls))[1:] == [2, 4, 6]
    model.gate.clear()
    calls = [ask(model.double(i)) for i in range(4)]
    await turns()
    for call in calls:
        call.cancel()
    await turns()
    assert model.ended == ["cancelled"]
    model.gate.set()
    assert await gathered(*map(model.double, range(4))) == [0, 2, 4, 6], "it goes on with the next"


async def test_a_batch_in_a_thread_counts_until_the_thread_is_back() -> None:
    model, let_go = Model(), threading.Event()
    calls = [ask(model.wait_in_thread(let_go)) for _ in range(2)]
    next_ones = [ask(model.wait_in_thread(let_go)) for _ in range(2)]
    await asyncio.to_thread(model.began.acquire)
    for call in calls:
        call.cancel()
    await turns()
    assert len(model.batches) == 1, "the thread goes on, and no other batch beside it"
    let_go.set()
    assert await gathered(*next_ones) == [None, None] and len(model.batches) == 2


async def test_a_batch_given_up_before_its_first_step_frees_its_place() -> None:
    model = Model()
    calls = [ask(model.double(i)) for i in range(4)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await gathered(*calls)
    assert await gathered(*map(model.double, range(4))) == [0, 2, 4, 6]


async def test_other_limits_are_in_force_at_once() -> None:
    model = Model()
    calls = [ask(model.double(i)) for i in range(3)]
    await turns()
    model.double.set_max_batch_size(3)
    assert await gathered(*calls) == [0, 2, 4]
    waits = ask(model.double(9))
    await turns()
    await asyncio.to_thread(model.double.set_batch_wait_timeout_s, 0.0)
    assert await gathered(waits) == [18]
    with pytest.raises(InvalidConfig, match="max_batch_size"):
        model.double.set_max_batch_size(0)


async def test_as_many_run_as_may() -> None:
    model = Model()
    model.gate.clear()
    model.double.set_max_batch_size(1)
    calls = [ask(model.double(i)) for i in range(4)]
    await turns()
    assert model.batches == [[0]]
    model.double.set_max_concurrent_batches(3)
    await turns()
    assert model.batches == [[0], [1], [2]]
    model.gate.set()
    assert await gathered(*calls) == [0, 2, 4, 6]


def serving(*, seconds: float | None = None, model_id: str = "") -> CurrentRequest:
    """Let the running task serve a request."""
    place = Place("app", "Model", asyncio.get_running_loop())
    deadline = None if seconds is None else SYSTEM.monotonic() + seconds
    request = CurrentRequest(place, deadline=deadline, model_id=model_id)
    current_request.enter(request)
    return request


async def served(work: Callable[[], Any], **fields: Any) -> Any:
    serving(**fields)
    return await work()


async def test_a_deadline_is_not_waited_past() -> None:
    model = Model()
    model.double._queue._core.usual.add(29.9)  # a batch seems to take that long
    said = await gathered(served(lambda: model.double(1)), served(lambda: model.double(2), seconds=30))
    assert said == [2, 4] and model.batches == [[1, 2]]


async def test_what_is_late_never_runs() -> None:
    model = Model()
    model.gate.clear()
    model.double.set_max_batch_size(1)
    running = ask(model.double(1))
    late = ask(served(lambda: model.double(2), seconds=0.01))
    (said,) = await gathered(late)
    assert isinstance(said, DeadlineExceeded)
    model.gate.set()
    assert await gathered(running) == [2] and model.batches == [[1]]


async def test_a_batch_serves_one_model_and_the_function_knows_which() -> None:
    class Adapters:
        @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
        async def run(self, values: list[int]) -> list[Any]:
            request = current_request.current()
            assert request is not None
            return [(value, request.model_id, request.deadline is None) for value in values]

    run = Adapters().run
    said = await gathered(
        served(lambda: run(1), model_id="a"),
        served(lambda: run(2), model_id="b", seconds=30),
        served(lambda: run(3), model_id="a", seconds=30),
        served(lambda: run(4), model_id="b", seconds=40),
    )
    assert said == [(1, "a", True), (2, "b", False), (3, "a", True), (4, "b", False)]


async def test_sync_code_of_a_request_gets_the_result_itself() -> None:
    serving()
    model = Model()
    assert await gathered(*(asyncio.to_thread(model.double, i) for i in range(4))) == [0, 2, 4, 6]

    def reads(end: int) -> list[Any]:
        return list(model.count(end))

    assert await gathered(asyncio.to_thread(reads, 2), asyncio.to_thread(reads, 3)) == [[0, 1], [0, 1, 2]]


def test_where_no_loop_runs_that_is_said() -> None:
    with pytest.raises(RuntimeError, match=r"Plain\.double is called where no request is served"):
        Plain().double(1)


def test_one_loop_after_another() -> None:
    @mesh.batch(batch_wait_timeout_s=0)
    async def double(values: list[int]) -> list[int]:
        return [value * 2 for value in values]

    async def main() -> Any:
        return await double(4)

    assert [asyncio.run(main()) for _ in range(2)] == [8, 8]


async def collected(stream: Any) -> list[Any]:
    return [result async for result in stream]


async def test_each_caller_has_a_stream_of_its_own() -> None:
    model = Model()
    assert await gathered(collected(model.count(3)), collected(model.count(5))) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    await turns()
    assert model.batches == [[3, 5]] and model.ended == ["closed"], "it ends with its last stream"


async def test_generators_run_in_threads_and_fail_one_stream() -> None:
    model = Model()
    said = await gathered(collected(model.count_in_thread(2)), collected(model.count_in_thread(4)))
    assert isinstance(said[0], ValueError)
    assert [i for i, _ in said[1]] == [0, 1, 2, 3]
    assert all(name.startswith("Model.count_in_thread") for _, name in said[1])


async def test_a_generator_waits_for_its_slowest_reader() -> None:
    model = Model()
    slow = model.count(500)
    fast = ask(collected(model.count(500)))
    assert await anext(slow) == 0
    await turns(2000)
    assert model.last <= STREAM_RESULTS_MAX + 1, "no more is made than fits the streams"
    assert [0, *await collected(slow)] == list(range(500)) == await fast


async def test_a_reader_that_leaves_holds_up_nobody() -> None:
    model = Model()
    leaves, stays = model.count(100), ask(collected(model.count(40)))
    assert await anext(leaves) == 0
    await turns(500)
    await leaves.aclose()
    assert await stays == list(range(40))
    left = [model.count(100), model.count(100)]
    await gathered(*map(anext, left))
    for stream in left:
        await stream.aclose()
    await turns()
    assert model.ended == ["closed", "closed"]


@pytest.mark.parametrize("target", [3, print, Model, lambda: [], lambda *values: [], staticmethod(turns)])
def test_what_cannot_be_batched(target: Any) -> None:
    with pytest.raises(InvalidConfig, match="batch"):
        mesh.batch(target)
