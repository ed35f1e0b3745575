"""ASGI applications as deployments: `asgi` makes one of an application, `ingress` gives one to a class.

Owns the mark that a class carries. Imports no web framework and runs nothing: the replica hosts what is marked.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mesh.errors import InvalidConfig, Problem
from mesh.serving.deployment import Deployment, deployment
from mesh.serving.options import shown

AsgiApplication = Callable[[Any, Any, Any], Awaitable[None]]
"""What ASGI 3 calls an application: async, of scope, receive and send."""

_Class = TypeVar("_Class", bound=type)
_MARK = "__mesh_asgi__"


@dataclass(frozen=True, slots=True)
class _Hosted:
    """Holds an application: as the attribute of a class, a function would become a method."""

    application: AsgiApplication


class _Asgi:
    """Base of the classes that `asgi` makes."""


def asgi(application: AsgiApplication, /, **options: Any) -> Deployment:
    """Return any ASGI application (FastAPI, Starlette, Litestar, Django, …) as a deployment; bind it like others.

    `options` are those of `mesh.deployment`; `name` is, by default, that of the application's class or function.
    Raises InvalidConfig on what is no application, an unknown option or a bad value.
    """
    _check(application)
    default = application.__name__ if inspect.isroutine(application) else type(application).__name__
    target = type(default, (_Asgi,), {_MARK: _Hosted(application), "__doc__": None})
    declare = deployment(**options)
    return declare(target)


def ingress(application: AsgiApplication, /) -> Callable[[_Class], _Class]:
    """Let a class answer HTTP and WebSockets by an ASGI application. Goes below `@mesh.deployment`.

    Methods that the application's decorators made routes (`@app.get("/")`) are called with `self`, the instance of
    the replica. Raises InvalidConfig on what is no application, or no class.
    """
    _check(application)

    def decorate(target: _Class) -> _Class:
        if isinstance(target, Deployment):
            raise _invalid(f"{target.name!r} is a deployment already", "write @mesh.ingress(…) below @mesh.deployment")
        if not inspect.isclass(target):
            raise _invalid(f"an ingress is a class, not {shown(target)}", "for a whole application, use mesh.asgi(app)")
        setattr(target, _MARK, _Hosted(application))
        return target

    return decorate


def hosted(target: object) -> AsgiApplication | None:
    """Return the application that a deployment's class answers by, if it does."""
    held = getattr(target, _MARK, None) if inspect.isclass(target) else None
    return held.application if isinstance(held, _Hosted) else None


def _check(application: object) -> None:
    if isinstance(application, Deployment):
        raise _invalid(f"{application.name!r} is a deployment already", "bind it")
    if inspect.isclass(application) or not callable(application):
        hint = "give the application itself, such as FastAPI()"
        raise _invalid(f"{shown(application)} is no ASGI application", hint)
    try:
        inspect.signature(application).bind(None, None, None)
    except ValueError:  # it has no signature that can be read
        return
    except TypeError:
        hint = "a WSGI application, such as Flask's, needs an adapter, such as a2wsgi's WSGIMiddleware"
        raise _invalid(f"{shown(application)} does not take scope, receive and send", hint) from None


def _invalid(text: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem("", text, hint),))
