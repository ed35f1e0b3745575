"""What a deployment answers to: its HTTP handler, its gRPC services, and the descriptors of these.

Owns the reading of descriptor sets that lie beside generated stubs. Called by the build.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from mesh.errors import UserCodeError
from mesh.model import Interface
from mesh.serving.asgi import hosted
from mesh.transcode.collect import collect, descriptor_set_paths
from mesh.transcode.descriptor_set import SchemaError
from mesh.transcode.packed import PACKED_BYTES_MAX, SET_BYTES_MAX
from mesh.transcode.schema import Schema


def interface_of(target: object) -> Interface:
    """Return what `target`, a user's class or function, answers to.

    Raises UserCodeError if its services cannot be served as they are: bad descriptors, HTTP rules or templates.
    """
    collected = collect(target, _comments(target))
    if collected is None:
        return Interface()
    services = tuple(service.full_name for service in collected.services)
    try:
        Schema.load(collected.descriptor_set, services)
    except SchemaError as error:
        raise UserCodeError(f"its gRPC services cannot be served: {error.message}", hint=error.hint) from None
    packed = zlib.compress(collected.descriptor_set, 6)
    if len(packed) > PACKED_BYTES_MAX:
        text = (
            f"the descriptors of its gRPC services have {len(packed)} bytes compressed; {PACKED_BYTES_MAX} are allowed"
        )
        raise UserCodeError(text, hint="serve fewer services, or move unused messages to files of their own")
    return Interface(not (collected.serves_http or hosted(target)), services, packed)


def _comments(target: object) -> Iterator[bytes]:
    """Yield the descriptor sets beside the stubs, for the comments in them."""
    if not isinstance(target, type):
        return
    for path in descriptor_set_paths(target):
        try:
            if os.path.getsize(path) <= SET_BYTES_MAX:
                with open(path, "rb") as file:
                    yield file.read(SET_BYTES_MAX)
        except OSError:
            continue
