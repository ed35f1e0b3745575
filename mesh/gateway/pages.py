"""mesh's own pages under `/-/`, for people and load balancers.

Owns what they say. Called by `http_front`; touches no replica.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from mesh.errors import NotFound
from mesh.gateway.answer import MethodNotAllowed

if TYPE_CHECKING:
    from mesh.gateway.pipeline import Pipeline

PREFIX = b"/-/"
OPENAPI, DOCS = "/-/openapi.json", "/-/docs"
_PAGES = ("/-/healthz", "/-/routes", OPENAPI, DOCS)
_METHODS = ("GET", "HEAD")


def check(method: str, path: str) -> None:
    """Refuse what is no page of mesh's. Raises NotFound or MethodNotAllowed."""
    if path not in _PAGES:
        raise NotFound(f"mesh has no page {path[:200]!r}", hint=f"it has {', '.join(_PAGES)}")
    if method not in _METHODS:
        raise MethodNotAllowed(f"{path} is there to be read", allow=", ".join(_METHODS))


def page(pipeline: Pipeline, path: str) -> tuple[int, bytes]:
    """Return status and JSON body of `/-/healthz` or `/-/routes`."""
    status, document = HTTPStatus.OK, dict[str, str]()
    if path == "/-/routes":
        document = pipeline.routes()
    elif reason := pipeline.not_ready():
        status, document = HTTPStatus.SERVICE_UNAVAILABLE, {"status": reason}
    else:
        document = {"status": "ok"}
    return status.value, json.dumps(document).encode() + b"\n"
