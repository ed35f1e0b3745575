"""What `benchmarks.run` measures: a module for each kind of work, a function for each workload.

Each takes what it is served by and returns its figures by name, as they stand in results/latest.json.
"""
