"""Generated messages of grpc.reflection.v1 (scripts/protos.sh)."""
