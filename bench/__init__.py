"""Benchmarks of `fmnist_xp`: `python -m bench throughput|peers|scaling|loading|report`."""
