"""The pool of this package's descriptors, under the name by which generated modules ask for one.

In the default pool a name exists once in a process: with the modules of `mesh` itself, of another version, whichever is
imported second would fail.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

_POOL = DescriptorPool()


def Default() -> DescriptorPool:
    """Return the pool."""
    return _POOL
