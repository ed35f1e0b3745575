"""Benchmarks: bounded, on loopback, each figure a median of several runs."""
