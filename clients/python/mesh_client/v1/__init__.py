"""The control plane's messages and stubs, generated (scripts/protos.sh) into a descriptor pool of their own.

Names on the wire are those of package mesh.v1. In the default pool they could not stand beside the modules of a mesh of
another version in the same process; see `_descriptor_pool` and `_builder`.
"""
