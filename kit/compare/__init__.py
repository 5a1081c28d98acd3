"""Two sets of runs: what became faster, slower, equivalent or inconclusive, with a gate for CI."""

from kit.compare.changes import between, main

__all__ = ["between", "main"]
