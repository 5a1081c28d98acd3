"""Kubernetes' autoscaling rule replayed over a measured capacity curve: simulated, nothing is scheduled."""

import math
from collections import deque
from collections.abc import Sequence

from kit.common.parameters import at_least, positive

PERIOD_S = 15.0
TOLERANCE = 0.1
"""Defaults of the HorizontalPodAutoscaler: how often it decides, and how far from 1 the ratio must be."""


def desired(replicas: int, metric: float, target: float) -> int:
    """Return ceil(replicas × metric ÷ target), or the same number within the tolerance: the rule of `autoscaling/v2`.

    metric and target: per replica, in one unit, here requests per second.
    """
    ratio = metric / positive(target, "target")
    return replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(replicas * ratio)


def replay(
    offered: Sequence[float], capacity: Sequence[float], target: float, window_s: float = 300.0, startup_s: float = 0.0
) -> tuple[list[int], float]:
    """Return how many replicas the rule would have had ready in each period of a load, simulated, and the share of the
    requests that arrived in a period with more load than capacity.

    offered: requests per second in each period of 15 s. capacity: requests per second that 1, 2, … replicas carry
    within the bound, measured or modelled; as many replicas are allowed. target: requests per second and replica. The
    rule at most doubles the replicas or adds four per period, and removes them only down to the most that it wanted in
    the last `window_s`. A new replica is ready `startup_s` (its cold start) after it was wanted, rounded up to whole
    periods.
    """
    at_least(min(len(offered), len(capacity)), 1, "number of periods, or of capacities")
    window = max(1, math.ceil(at_least(window_s, 0, "window_s") / PERIOD_S))
    delay = math.ceil(at_least(startup_s, 0, "startup_s") / PERIOD_S)
    recent, wanted, ready = deque(maxlen=window), [1] * (delay + 1), []
    for rate in offered:
        ready.append(min(wanted[-1 - delay :]))
        now = wanted[-1]
        recent.append(desired(now, rate / now, target))
        raised = min(recent[-1], max(2 * now, now + 4))
        wanted.append(min(max(1, raised if recent[-1] > now else min(now, max(recent))), len(capacity)))
    over = sum(rate for rate, count in zip(offered, ready, strict=True) if rate > capacity[count - 1])
    return ready, over / sum(offered)
