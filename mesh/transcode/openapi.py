"""The OpenAPI 3.1 document of all REST routes, made of schemas and the comments in them.

Owns the document's form. What OpenAPI cannot say (other HTTP methods, a second route of one shape) stands in the
extension `x-mesh-operations` of its path. Equal input gives equal bytes. Never does I/O. Called by the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.transcode.json_codec import JsonOptions
from mesh.transcode.openapi_operations import Operations, components
from mesh.transcode.schema import Schema

_PLAIN = JsonOptions()


@dataclass(frozen=True, slots=True)
class ApiSource:
    """What one application serves under its route prefix. Plain HTTP applications are not in the document."""

    application: str
    route_prefix: str
    """"": not reachable over HTTP; it gets no entry."""
    schema: Schema
    options: JsonOptions = _PLAIN


def document(sources: Iterable[ApiSource], *, title: str = "mesh", version: str = "1") -> dict[str, Any]:
    """Return the OpenAPI document of `sources`, whatever their order."""
    operations = Operations()
    for source in sorted(sources, key=lambda each: (each.application, each.route_prefix)):
        if source.route_prefix:
            operations.add(source.application, source.route_prefix, source.schema, source.options)
    return {
        "openapi": "3.1.1",
        "info": {"title": title, "version": version, "description": _ABOUT},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "tags": operations.tags(),
        "paths": operations.paths(),
        "components": components(operations.schemas()),
    }


def render(sources: Iterable[ApiSource], *, title: str = "mesh", version: str = "1") -> bytes:
    """Return the document as JSON text."""
    return json.dumps(document(sources, title=title, version=version), ensure_ascii=False).encode() + b"\n"


_ABOUT = (
    "REST routes of the deployed protobuf services. Bodies are proto3 JSON. Unknown fields and query parameters are "
    "refused; field names are taken in their JSON form and as they stand in the .proto file."
)
