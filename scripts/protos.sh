#!/bin/sh
# Generates mesh/v1 and mesh/controlplane/etcdrpc from the files of the same paths under protos, and
# mesh/gateway/reflectionrpc, whose place is not its path: no package of ours can be called grpc; and what of mesh/v1 the
# Python client uses, into its own package and with a descriptor pool of its own
# (run from the top; PYTHON names the interpreter; $1 is where to write, the top if not given).
set -eu
PYTHON="${PYTHON:-.venv/bin/python}"
out="${1:-.}"
bin="$(dirname "$PYTHON")"
PATH="$bin:$PATH" "$PYTHON" -m grpc_tools.protoc -Iprotos --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" protos/mesh/v1/*.proto protos/mesh/controlplane/etcdrpc/*.proto

flat="$(mktemp -d)"
trap 'rm -rf "$flat"' EXIT
PATH="$bin:$PATH" "$PYTHON" -m grpc_tools.protoc -Iprotos --python_out="$flat" --mypy_out="quiet:$flat" \
    protos/grpc/reflection/v1/reflection.proto
mkdir -p "$out/mesh/gateway/reflectionrpc"
mv "$flat"/grpc/reflection/v1/reflection_pb2.* "$out/mesh/gateway/reflectionrpc"

client="$flat/client"
mkdir -p "$client/mesh_client/v1"
for name in deployment deployment_service event event_service ingress_service revision_service; do
    sed 's|^import "mesh/v1/|import "mesh_client/v1/|' "protos/mesh/v1/$name.proto" >"$client/mesh_client/v1/$name.proto"
done
PATH="$bin:$PATH" "$PYTHON" -m grpc_tools.protoc -I"$client" --python_out="$client" --grpc_python_out="$client" \
    --mypy_out="quiet:$client" --mypy_grpc_out="quiet:$client" "$client"/mesh_client/v1/*.proto
for file in "$client"/mesh_client/v1/*_pb2.py; do
    sed -e 's|^from google.protobuf import descriptor_pool as _descriptor_pool$|from mesh_client.v1 import _descriptor_pool|' \
        -e 's|^from google.protobuf.internal import builder as _builder$|from mesh_client.v1 import _builder|' \
        "$file" >"$file.own"
    mv "$file.own" "$file"
done
mkdir -p "$out/clients/python/mesh_client/v1"
mv "$client"/mesh_client/v1/*_pb2* "$out/clients/python/mesh_client/v1"
