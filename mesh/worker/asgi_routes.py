"""Routes whose endpoint is a method of an ingress class: makes them call the instance of this replica.

Owns how such routes are found and made anew. Works on FastAPI's and Starlette's route objects by their public
attributes and imports neither. Called by `instance`, once, before the application serves.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import MethodType
from typing import Any

from mesh.errors import UserCodeError

_INSIDE = ("router", "original_router", "app", "_base_app")
"""Attributes by which applications, mounts and included routers hold what has the routes."""


def bind_methods(application: object, instance: object) -> None:
    """Let each route of `application` that a method of `instance`'s class was decorated with call it on `instance`.

    Raises UserCodeError for a route that cannot be made anew.
    """
    for holder, routes in _tables(application, set()):
        changed = False
        for i, route in enumerate(routes):
            endpoint: Any = getattr(route, "endpoint", None)
            function = getattr(endpoint, "__func__", endpoint)
            if _is_method(function, type(instance)):
                routes[i] = _rebound(route, MethodType(function, instance))
                changed = True
        if changed and callable(mark := getattr(holder, "_mark_routes_changed", None)):
            mark()  # FastAPI keeps what it derives from the routes of an included router


def _tables(holder: Any, seen: set[int]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield whatever holds routes below `holder`, with its list of them."""
    if holder is None or id(holder) in seen:
        return
    seen.add(id(holder))
    routes = getattr(holder, "routes", None)
    if isinstance(routes, list) and id(routes) not in seen:
        seen.add(id(routes))
        yield getattr(holder, "router", holder), routes
        for route in list(routes):
            yield from _tables(route, seen)
    for name in _INSIDE:
        inside = getattr(holder, name, None)
        if not inspect.isroutine(inside):
            yield from _tables(inside, seen)


def _is_method(function: Any, kind: type) -> bool:
    """Whether `function` was written as a method of `kind` or of a base of it, wrapped by decorators or not."""
    name = getattr(function, "__name__", None)
    if not callable(function) or not isinstance(name, str):
        return False
    for base in kind.__mro__[:-1]:
        held = vars(base).get(name)
        if isinstance(held, (staticmethod, classmethod)):
            continue
        if held is function:
            return True
        place = (getattr(function, "__module__", None), getattr(function, "__qualname__", None))
        if place == (base.__module__, f"{base.__qualname__}.{name}"):
            return True
    return False


def _rebound(route: Any, method: MethodType) -> Any:
    """Return the same route with another endpoint, all that is derived from its signature included."""
    kind = type(route)
    # What a stream yields is read from the annotation anew; the response model stands for no model there.
    left_out = {"path", "endpoint"} | ({"response_model"} if getattr(route, "stream_item_type", None) else set())
    names = [name for name in _parameters(kind) if name not in left_out and hasattr(route, name)]
    made = kind(route.path, method, **{name: getattr(route, name) for name in names})
    _keep_middleware(route, made)
    return made


def _parameters(kind: type) -> Iterator[str]:
    """Yield the names that a class's constructor takes, also by way of its bases."""
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        yield from (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return


def _keep_middleware(route: Any, made: Any) -> None:
    """Put what stands around the route's old endpoint around the new one: Starlette's routes do not keep its list.

    Raises UserCodeError where it cannot be told what stands there.
    """
    outer: Any = getattr(route, "app", None)
    inner: Any = getattr(made, "app", None)
    if type(outer) is not type(inner):
        around = outer
        while not inspect.isroutine(getattr(around, "app", None)) and hasattr(around, "app"):
            around = around.app
        if hasattr(around, "app"):
            around.app, made.app = inner, outer
            return
    elif getattr(outer, "__code__", None) is getattr(inner, "__code__", None):
        return
    text = f"route {route.path} has a middleware of its own, which cannot be kept with a method as its endpoint"
    raise UserCodeError(text, hint="give the middleware to the application, or make the endpoint a plain function")
