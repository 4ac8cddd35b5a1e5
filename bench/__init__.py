"""Benchmarks of `fmnist_xp`: `python -m bench throughput|peers|scaling|ranks|loading|report`."""

import os

os.environ["MPLBACKEND"] = "agg"  # pictures go to files; Jupyter exports a backend that its environment alone has
