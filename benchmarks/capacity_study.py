"""How often is a capacity wrong? Searches and comparisons on simulated queues, whose capacity is known from long runs.

Per queue and shortest load: how often the interval of `load.capacity` contains the true capacity, and how many seconds
of load a search takes. Per speed and number of rounds, each of them loads at the rates around the capacity as in
09_serving: how often the ratio of the paired rounds is significant, where speed 1 is the same server twice, and what
all rounds pooled show of the capacity. All time is simulated.

    python benchmarks/capacity_study.py --searches 100
"""

import argparse

import numpy as np

from kit.common import load
from kit.techniques.serving import queue_model, variants

QUEUES = {
    "4 ms, p99 ≤ 50 ms": (0.004, 0.050, 0.99),
    "1 ms, p99 ≤ 20 ms": (0.001, 0.020, 0.99),
    "4 ms, p95 ≤ 20 ms": (0.004, 0.020, 0.95),
}
"""Mean service time in seconds (gamma, shape 4), bound in seconds, percentile."""
APART = 1_000
"""Between the seeds of two searches."""


def service_s(mean_s: float) -> np.ndarray:
    """Return service times, seconds, shape (20000,)."""
    return np.random.default_rng(0).gamma(4, mean_s / 4, 20_000)


def server(times_s: np.ndarray, first: int):
    """Return how a simulated server is offered load; first: the seed that is added to each."""
    return lambda rate, requests, seed: queue_model.simulate(times_s, 1, rate, requests, seed + first)


def known(times_s: np.ndarray, bound_s: float, percentile: float, requests: int = 1_000_000) -> float:
    """Return the capacity, requests per second, from long runs."""
    random = np.random.default_rng(2)
    arrived, drawn_s = np.sort(random.uniform(0, requests, requests)), random.choice(times_s, requests)
    served_s, low, high = np.cumsum(drawn_s), 0.0, 1 / times_s.mean()
    for _ in range(12):
        rate = (low + high) / 2
        due_s = arrived / rate
        latency_s = np.maximum.accumulate(due_s - served_s + drawn_s) + served_s - due_s
        low, high = (rate, high) if (latency_s > bound_s).mean() <= 1 - percentile else (low, rate)
    return low


def covered(searches: int, mean_s: float, bound_s: float, percentile: float, bounds: float) -> str:
    """Return a row: share of searches whose interval contains the capacity, or nearly so, its ends, seconds of load."""
    times_s = service_s(mean_s)
    true = known(times_s, bound_s, percentile)
    lows = true / np.random.default_rng(1).uniform(4, 8, searches)
    found = [
        load.capacity(server(times_s, APART * number), bound_s, low, 2 * true, percentile=percentile, bounds=bounds)
        for number, low in enumerate(lows)
    ]
    share, near = (
        np.mean([one.lower <= true * apart and true / apart <= one.upper for one in found]) for apart in (1, 1.05)
    )
    lower, upper = (np.median([getattr(one, end) for one in found]) / true for end in ("lower", "upper"))
    took_s = np.mean([sum(point.load.requests / point.rate for point in one.points) for one in found])
    return f"{bounds:g} | {100 * share:.0f} % | {100 * near:.0f} % | {lower:.2f}–{upper:.2f} | {took_s:.0f} s"


def different(comparisons: int, speed: float, rounds: int, bounds: float) -> str:
    """Return a row: share of comparisons that are significant, the median ratio with the middle 90 % of them, and of
    the pooled rounds: how often the interval contains the capacity, or nearly so, and its ends."""
    times_s, bound_s, percentile = service_s(0.001), 0.020, 0.99
    true, ratios, significant, pooled = known(times_s, bound_s, percentile), [], 0, []
    for number in range(comparisons):
        start = true / np.random.default_rng([3, number]).uniform(1.2, 6)
        rates = [start * variants.STEP**power for power in range(2 * variants.STEPS + 1)]
        crossed, loads = [], []
        for shift, faster in enumerate((1, speed)):
            at = server(times_s / faster, APART * number + shift * APART // 2)
            crossed.append([])
            for seed in range(rounds):
                near = np.median(crossed[-1] or rates)
                found = load.enclosing(at, rates, near, bound_s, bounds=bounds, seed=seed)
                crossed[-1].append(load.crossing(found, bound_s, percentile))
                loads += [] if shift else found
        slow, fast = (load.Capacity(bound_s, percentile, rounds=tuple(one)) for one in crossed)
        ratio, low, high = fast.ratio(slow)
        ratios.append(ratio)
        significant += not low <= 1 <= high
        pooled.append(load.pooled(loads, bound_s, percentile))
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    share, near = (
        np.mean([one.lower <= true * apart and true / apart <= one.upper for one in pooled]) for apart in (1, 1.05)
    )
    lower, upper = (np.median([getattr(one, end) for one in pooled]) / true for end in ("lower", "upper"))
    return (
        f"{100 * significant / comparisons:.0f} % | {middle:.2f} ({low:.2f}–{high:.2f}) | "
        f"{100 * share:.0f} % | {100 * near:.0f} % | {lower:.2f}–{upper:.2f}"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=100)
    searches = parser.parse_args().searches
    print("| queue | shortest load, bounds | in the interval | within 5 % | median interval ÷ capacity | load |")
    print("|---|---|---|---|---|---|")
    for name, queue in QUEUES.items():
        for bounds in (0, 50, 200):
            print(f"| {name} | {covered(searches, *queue, bounds)} |", flush=True)
    print("\n| speed | bounds | rounds | significant | ratio | in the interval | within 5 % | interval ÷ capacity |")
    print("|---|---|---|---|---|---|---|---|")
    for speed, bounds, rounds in ((1, 10, 10), (1, 25, 10), (1, 50, 10), (1, 50, 20), (1.3, 25, 10), (1.3, 50, 10)):
        print(f"| {speed} | {bounds} | {rounds} | {different(searches, speed, rounds, bounds)} |", flush=True)


if __name__ == "__main__":
    main()
