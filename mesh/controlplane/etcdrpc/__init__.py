"""etcd's v3 wire API, generated from protos/mesh/controlplane/etcdrpc by scripts/protos.sh.

This file alone is written by hand. It gathers all names in one place, as the package etcd3 expects of its
own `etcd3.etcdrpc`, whose place it takes (see `etcd_connection`).
"""

from mesh.controlplane.etcdrpc.rpc_pb2 import *
from mesh.controlplane.etcdrpc.rpc_pb2_grpc import *
