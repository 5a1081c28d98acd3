"""Load on a service: open and closed loops over HTTP, percentiles with their counts, capacity under a latency bound."""

# ruff: noqa: F401  (what notebooks and techniques use)
from kit.common.load.capacity import (
    Capacity,
    capacity,
    crossing,
    early_stopping,
    enclosing,
    generator_peak,
    least_requests,
    pooled,
    requests_of,
)
from kit.common.load.latency import LEAST_BEYOND, Load, merged, percentile
from kit.common.load.loops import CONNECTIONS, arrivals, closed, offer, open_loop
