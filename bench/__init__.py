"""Measurements of the running proxy beside nginx, one question each: `make bench`.

`python -m bench [NAMES] [--quick]` starts its own servers on loopback, with data in a temporary
folder, and ends only what it started. A whole run writes docs/benchmarks.md.
"""
