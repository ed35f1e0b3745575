"""`@mesh.multiplexed` on a real event loop: loads shared, models kept in use, unloads, and what callers are told."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import mesh
from mesh.errors import InvalidConfig
from mesh.pipe.callee import Callee
from mesh.serving import current_request
from mesh.serving.current_request import CurrentRequest, Place
from tests.support.pipes import ScriptedCaller, opened, turns

pytestmark = pytest.mark.filterwarnings("error")


class Model:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id


class Loader:
    """Two models. It notes what it loads and unloads, and waits for `gate` if that is not set."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @mesh.multiplexed(max_models_per_replica=2)
    async def get_model(self, model_id: str) -> Model:
        self.notes.append(f"load {model_id}")
        assert mesh.get_multiplexed_model_id() in (model_id, ""), "it is loaded for no request in particular"
        await self.gate.wait()
        if model_id.startswith("bad"):
            raise StopIteration if model_id == "bad-stop" else LookupError(model_id)
        return Model(model_id)

    @get_model.unload
    async def let_go(self, model_id: str, model: Model) -> None:
        assert model.model_id == model_id
        self.notes.append(f"unload {model_id}")

    @mesh.multiplexed(max_num_models_per_replica=1)
    def load_in_thread(self, model_id: str) -> Any:
        return Closes(self.notes, model_id)


class Closes:
    def __init__(self, notes: list[str], model_id: str) -> None:
        self.notes = notes
        self.model_id = model_id

    def close(self) -> None:
        self.notes.append(f"close {self.model_id}")
        raise ValueError("closing went wrong")


class Request(CurrentRequest):
    """A request whose end the test tells."""

    __slots__ = ()

    def watch_end(self) -> bool:
        return True


def place() -> Place:
    return Place("app", "Test", asyncio.get_running_loop())


def told(where: Place) -> list[str]:
    """Return what callers are told."""
    return list(where.models.model_ids)


async def served(request: CurrentRequest, work: Callable[[], Any]) -> Any:
    current_request.enter(request)
    return await work()


async def test_one_load_for_all_and_the_one_used_longest_ago_goes() -> None:
    loader = Loader()
    models = await asyncio.gather(*(loader.get_model(each) for each in "aabb"))
    assert models[0] is models[1] and models[2] is models[3]
    assert await loader.get_model("a") is models[0]
    await loader.get_model("c")
    assert loader.notes == ["load a", "load b", "unload b", "load c"]


@pytest.mark.parametrize("model_id", ["bad", "bad-stop"])
async def test_a_failed_load_fails_all_who_wait_and_is_not_kept(model_id: str) -> None:
    loader = Loader()
    said = await asyncio.gather(*(loader.get_model(model_id) for _ in range(2)), return_exceptions=True)
    assert all(isinstance(each, LookupError if model_id == "bad" else RuntimeError) for each in said)
    with pytest.raises((LookupError, RuntimeError)):
        await loader.get_model(model_id)
    assert loader.notes == [f"load {model_id}"] * 2


async def test_who_hangs_up_ends_no_load() -> None:
    loader = Loader()
    loader.gate.clear()
    first, second = (asyncio.ensure_future(loader.get_model("a")) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    loader.gate.set()
    assert (await second).model_id == "a" and loader.notes == ["load a"]


async def test_a_model_stays_while_a_request_uses_it() -> None:
    loader, where = Loader(), place()
    requests = [Request(where) for _ in range(3)]
    await served(requests[0], lambda: loader.get_model("a"))
    await served(requests[1], lambda: loader.get_model("b"))
    waits = asyncio.ensure_future(served(requests[2], lambda: loader.get_model("c")))
    await turns()
    assert not waits.done() and told(where) == ["b"], "callers send no more for what is to leave"
    requests[0].end()
    assert (await waits).model_id == "c"
    assert loader.notes == ["load a", "load b", "unload a", "load c"]
    assert told(where) == ["b", "c"]


async def test_sync_loaders_run_in_threads_and_sync_code_gets_the_model_itself() -> None:
    current_request.enter(CurrentRequest(place()))
    loader = Loader()
    assert (await loader.load_in_thread("a")).model_id == "a"
    assert (await asyncio.to_thread(loader.load_in_thread, "b")).model_id == "b"
    assert loader.notes == ["close a"], "that its close raised is logged"
    assert (await asyncio.to_thread(Loader.get_model, loader, "c")).model_id == "c"


async def test_all_is_unloaded_when_the_replica_ends() -> None:
    where = place()
    current_request.enter(CurrentRequest(where))
    loader = Loader()
    await asyncio.gather(loader.get_model("a"), loader.get_model("b"))
    await where.models.unload_all()
    assert loader.notes[2:] == ["unload a", "unload b"] and told(where) == []


async def test_state_is_freed_with_its_instance() -> None:
    where = place()
    current_request.enter(CurrentRequest(where))
    loader = Loader()
    await loader.get_model("a")
    assert told(where) == ["a"]
    gone = weakref.ref(loader)
    del loader
    await turns()
    gc.collect()
    assert gone() is None and told(where) == []
    await where.models.unload_all()


async def test_a_function_that_is_no_method() -> None:
    @mesh.multiplexed
    async def get_model(model_id: str) -> Model:
        return Model(model_id)

    assert await get_model("a") is await get_model("a")


@pytest.mark.parametrize("model_id", ["", "../a", "a b", "x" * 201, None, 3])
async def test_ids_that_are_none(model_id: Any) -> None:
    with pytest.raises(ValueError, match="the id of a model"):
        await Loader().get_model(model_id)


@pytest.mark.parametrize("limit", [0, -2, True, 1.5, "3"])
def test_limits_that_are_none(limit: Any) -> None:
    with pytest.raises(InvalidConfig) as caught:
        mesh.multiplexed(max_models_per_replica=limit)
    assert caught.value.problems[0].field == "max_models_per_replica"


async def _yields(model_id: str) -> Any:
    yield model_id


@pytest.mark.parametrize("target", [3, Loader, lambda: None, lambda a, b, c: None, _yields])
def test_what_loads_no_models(target: Any) -> None:
    with pytest.raises(InvalidConfig):
        mesh.multiplexed(target)


async def test_callers_are_told_first_of_all_and_of_changes_only_the_last() -> None:
    callee = Callee(1, lambda call: call.done)
    callee.tell_models(("a",))
    caller = ScriptedCaller(callee)
    await turns()
    assert [list(frame.models.model_ids) for frame in caller.frames] == [["a"]]
    caller.hold()
    callee.tell_models(("b",))
    await turns()
    callee.tell_models(("c",))
    callee.tell_models(("c", "d"))
    caller.let_go()
    await caller.send(opened(1))
    told = [list(frame.models.model_ids) for frame in caller.frames if frame.WhichOneof("kind") == "models"]
    assert told == [["a"], ["b"], ["c", "d"]]
    await caller.hang_up()
