"""Generated from protos/mesh/v1; see scripts/protos.sh."""
