"""Declaring ASGI applications as deployments."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from starlette.applications import Starlette

import mesh
from mesh.errors import InvalidConfig
from mesh.serving.asgi import hosted


async def application(scope: Any, receive: Any, send: Any) -> None:
    pass


def test_an_application_is_a_deployment_with_options() -> None:
    made = mesh.asgi(application, max_ongoing_requests=7)
    assert (made.name, made.config.max_ongoing_requests) == ("application", 7)
    assert hosted(made.target) is application
    assert mesh.asgi(Starlette()).name == "Starlette" and mesh.asgi(Starlette(), name="Web").name == "Web"


def test_a_class_keeps_being_one() -> None:
    star = Starlette()

    @mesh.ingress(star)
    class Web:
        """Its own words."""

    class Derived(Web):
        pass

    assert Web.__name__ == "Web" and hosted(Web) is star and hosted(Derived) is star
    assert hosted(object) is None and hosted(star) is None


def test_mistakes_are_told() -> None:
    for wrong in (Starlette, 3, mesh.asgi(application)):
        with pytest.raises(InvalidConfig):
            mesh.asgi(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="no ASGI application"):
        mesh.ingress(Starlette)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="a deployment already") as caught:
        mesh.ingress(application)(mesh.asgi(application))  # type: ignore[type-var]
    assert "below @mesh.deployment" in caught.value.hint
    with pytest.raises(InvalidConfig, match="does not take scope, receive and send") as caught:
        mesh.asgi(lambda environ, start_response: [])  # type: ignore[arg-type, misc]
    assert "WSGI" in caught.value.hint
    assert mesh.asgi(lambda *args: application(*args), name="any").name == "any"
    with pytest.raises(InvalidConfig, match="an ingress is a class"):
        mesh.ingress(application)(application)  # type: ignore[type-var]
    with pytest.raises(InvalidConfig, match="max_ongoing_request"):
        mesh.asgi(application, max_ongoing_request=1)


def test_declaring_loads_no_framework() -> None:
    code = (
        "import sys, mesh\n"
        "async def app(scope, receive, send): pass\n"
        "mesh.deployment(mesh.ingress(app)(type('A', (), {}))); mesh.asgi(app)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'starlette', 'fastapi', 'anyio', 'grpc'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
