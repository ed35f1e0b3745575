from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import mesh
from mesh.errors import HandleMisused, InvalidConfig
from mesh.serving import handle
from mesh.serving.handle import Callee, DeploymentHandle


@dataclasses.dataclass(frozen=True)
class Parts:
    first: Any
    others: dict[str, Any]


@mesh.deployment
class Parent:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


@mesh.deployment
class Child:
    def __init__(self, *args: Any) -> None: ...


def named(name: str, *args: Any) -> Any:
    return Child.options(name=name).bind(*args)  # type: ignore[attr-defined]


bind = Parent.bind  # type: ignore[attr-defined]


def test_bound_deployments_are_found_at_any_depth_and_in_any_container() -> None:
    grandchild = named("g")
    application = bind(
        named("a", grandchild),
        [named("b")],
        (named("c"), {"d": named("d"), named("key"): 1}),
        at={named("e")},
        of=Parts(named("f"), {"x": [grandchild]}),
    )
    assert next(iter(application.bound())) == "Parent"
    assert sorted(application.bound()) == ["Parent", "a", "b", "c", "d", "e", "f", "g", "key"]
    built = application.built()
    assert [each.ingress for each in built] == [True] + [False] * 8


def test_callers_are_less_deep_than_what_they_call() -> None:
    last = named("last")
    middle = named("middle", last)
    built = bind(last, named("leaf"), middle, {"x": named("first", middle, last)}).built()
    depths = {each.config.name: each.depth for each in built}
    assert depths == {"Parent": 0, "leaf": 1, "first": 1, "middle": 2, "last": 3}


def test_a_circle_has_some_depth_and_all_else_is_as_it_should_be() -> None:
    back: list[Any] = []
    one = named("one", back, named("beyond"))
    two = named("two", one)
    back.append(two)
    depths = bind(two).depths()
    assert depths["Parent"] == 0 < min(depths["one"], depths["two"])
    assert depths["beyond"] > depths["one"]


def test_the_constructor_gets_handles_in_their_place() -> None:
    child = named("a")
    parts = Parts(child, {"x": [child, 1]})
    args, kwargs = bind(child, [1, (child,)], {child}, of=parts, plain={"k": 1}).arguments(lambda name: f"<{name}>")
    assert args == ("<a>", [1, ("<a>",)], {"<a>"})
    assert kwargs == {"of": Parts("<a>", {"x": ["<a>", 1]}), "plain": {"k": 1}}
    assert parts.first is child, "what was bound is left as it was"


def test_the_same_object_twice_is_one_deployment() -> None:
    child = named("a")
    assert list(bind(child, child).bound()) == ["Parent", "a"]


def test_two_of_one_name_are_refused_with_what_to_write() -> None:
    with pytest.raises(InvalidConfig, match="'a' is bound twice") as raised:
        bind(named("a"), named("a")).bound()
    assert '.options(name="a2")' in raised.value.hint
    with pytest.raises(InvalidConfig, match="two different deployments are called 'Parent'"):
        bind(named("Parent")).bound()


def test_a_deployment_that_is_not_bound_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="is the deployment 'Child', which is not bound") as raised:
        bind([Child]).bound()
    assert "Child.bind(...)" in raised.value.hint


def test_what_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidConfig, match="containing itself"):
        bind(endless).bound()


def test_handles_are_values() -> None:
    one = DeploymentHandle(Callee("app", "D"))
    assert one == DeploymentHandle(Callee("app", "D")) and hash(one) == hash(DeploymentHandle(Callee("app", "D")))
    other = one.stream.options(timeout_s=2.0, multiplexed_model_id="m")
    assert other._to == Callee("app", "D", "stream", timeout_s=2.0, model_id="m")
    assert repr(other) == "<DeploymentHandle app/D.stream>"
    assert one.options(method_name="remote", stream=True)._to == Callee("app", "D", "remote", stream=True)
    with pytest.raises(AttributeError):
        _ = one._private
    with pytest.raises(ValueError, match="above 0"):
        one.options(timeout_s=0)
    with pytest.raises(HandleMisused, match="not called itself"):
        one()


def test_outside_of_replicas_handles_say_that_they_do_not_work() -> None:
    assert handle._caller is None
    with pytest.raises(HandleMisused, match="in replicas only"):
        DeploymentHandle(Callee("app", "D")).remote()
