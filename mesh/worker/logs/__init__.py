"""What replicas print, kept on the worker's disk and read again."""
