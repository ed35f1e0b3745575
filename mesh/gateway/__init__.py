"""The gateway: HTTP and gRPC in front of replicas."""
