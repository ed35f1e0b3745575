#!/bin/sh
# Fails if the committed generated code differs from what protos/ gives.
set -eu
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
"$(dirname "$0")/protos.sh" "$out"
status=0
for generated in mesh/v1 mesh/controlplane/etcdrpc mesh/gateway/reflectionrpc clients/python/mesh_client/v1; do
    for file in $(cd "$out" && find "$generated" -name '*_pb2*'); do
        cmp -s "$out/$file" "$file" || { echo "generated code is stale: $file; run 'make protos'" >&2; status=1; }
    done
    for file in $(find "$generated" -name '*_pb2*' -not -path '*/__pycache__/*'); do
        [ -e "$out/$file" ] || { echo "nothing generates $file" >&2; status=1; }
    done
done
exit $status
