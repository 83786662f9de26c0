"""Upper bounds that hold at every moment, so that a gate may look as often as it likes."""

from __future__ import annotations

import math

BISECTIONS = 60


def mean_upper_bound(total: float, count: int, *, cap: float, confidence: float) -> float:
    """Upper confidence bound of the mean of `count` values in [0, cap] that sum to `total`, valid at all times.

    Beta-binomial mixture with a uniform prior for sub-Bernoulli sums: with S = total / cap the process
    B(S+1, n-S+1) / (p^S (1-p)^(n-S)) is a test supermartingale for a mean of p * cap (Howard, Ramdas, McAuliffe
    and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021). The bound is the largest p at
    which it is still below 1 / (1 - confidence). Values above the cap make the sum, and so the bound, too large: safe.
    """
    if count <= 0:
        return cap
    successes = min(float(count), max(0.0, total / cap))
    failures = count - successes
    log_beta = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(count + 2)
    limit = -math.log(1.0 - confidence)

    def excluded(p: float) -> bool:
        return log_beta - successes * math.log(p) - failures * math.log1p(-p) >= limit

    low, high = max(successes / count, 1e-300), 1.0 - 1e-15
    if not excluded(high):
        return cap
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return high * cap
