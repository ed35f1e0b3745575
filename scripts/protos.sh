#!/bin/sh
# Generates mesh/v1 and mesh/controlplane/etcdrpc from the files of the same paths under protos, and
# mesh/gateway/reflectionrpc, whose place is not its path: no package of ours can be called grpc
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
