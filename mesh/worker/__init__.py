"""The worker: runs replicas on one host."""
