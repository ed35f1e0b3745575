"""Environments that code runs in: fetched, built, kept in a cache and shared by the replicas of a worker."""
