"""Descriptor sets as they travel and are stored: compressed, and bounded both ways.

Pure. Used by the build, which packs, and by the control plane and gateways, which take what a worker sent.
"""

from __future__ import annotations

import zlib

from mesh.transcode.descriptor_set import SchemaError

PACKED_BYTES_MAX = 256 * 1024
"""Compressed: three revisions' worth must fit one record of the store."""
SET_BYTES_MAX = 4 * 1024 * 1024


def unpacked(data: bytes) -> bytes:
    """Return the serialized FileDescriptorSet in `data`. Raises SchemaError if it is damaged or too large."""
    if len(data) > PACKED_BYTES_MAX:
        raise SchemaError(f"the packed descriptor set has {len(data)} bytes; {PACKED_BYTES_MAX} are allowed")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, SET_BYTES_MAX + 1)
    except zlib.error:
        raise SchemaError("the packed descriptor set is damaged") from None
    if len(found) > SET_BYTES_MAX:
        raise SchemaError(f"the descriptor set has more than the {SET_BYTES_MAX} bytes allowed")
    if not stream.eof:
        raise SchemaError("the packed descriptor set is cut off")
    return found
