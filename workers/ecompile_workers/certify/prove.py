"""From boxes to proven regions: fates, reduced code and bounds of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..ir.graph import Array
from .bounds import Interval, bounds
from .network import Chain
from .reduction import Fates, choose_fates, counted_macs, reduce
from .regions import Region
from .rounding import evaluation_error, reduced_stages, source_stages

STATED_SLACK = 1e-3
"""Stated bounds are larger than derived ones by this share: the checker rounds differently (seen: 2e-4, where folded
weights cancel)."""

Cost = Callable[[Chain, Sequence[Fates]], float]
"""What a reduced network is expected to take."""


def fewest_macs(chain: Chain, fates: Sequence[Fates]) -> float:
    """A cost that counts multiply-adds."""
    return float(counted_macs(chain, fates)[0])


def best_fates(
    chain: Chain, z: Sequence[Interval], box: int, cost: Cost = fewest_macs
) -> tuple[tuple[Fates, ...], float]:
    """Of all ways to fold one box (how many first layers stay dense), the cheapest one and its cost."""
    options = [choose_fates(z, box, dense) for dense in range(len(chain.hidden) + 1)]
    costs = [cost(chain, fates) for fates in options]
    best = int(np.argmin(costs))
    return options[best], costs[best]


def prove(chain: Chain, lower: Array, upper: Array, *, cost: Cost = fewest_macs) -> Region:
    """The region of one box, `lower` and `upper` [inputs] float32. Bounds are infinite where none can be shown."""
    wide = lower.astype(np.float64)[None], upper.astype(np.float64)[None]
    z = bounds(chain, *wide)
    fates, _ = best_fates(chain, z, 0, cost)
    reduced = reduce(chain, fates)
    largest = np.maximum(np.abs(wide[0][0]), np.abs(wide[1][0]))
    ours = evaluation_error(reduced_stages(reduced, z, 0), largest)
    theirs = evaluation_error(source_stages(chain, z, 0), largest)
    return Region(
        lower=lower,
        upper=upper,
        fates=fates,
        steps=reduced.steps,
        real_bound=tuple(float(v) for v in ours * (1 + STATED_SLACK)),
        bound=tuple(float(v) for v in (ours + theirs) * (1 + STATED_SLACK)),
    )
