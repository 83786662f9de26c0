"""Strategy: proven regions. Boxes around the traffic in which most units cannot switch, each with its reduced code.

The module keeps the dense code for whatever lies outside of all boxes. Networks with many inputs are declined: a box
that holds their traffic lets most units switch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Strategy
from numpy.typing import NDArray

from ..certify import checker
from ..certify.bounds import bounds
from ..certify.certificate import box_digest, write_certificate
from ..certify.network import Chain, NotAChain, read_chain
from ..certify.prove import best_fates
from ..certify.regions import RegionTree, hit_share
from ..ir.graph import Array, Graph
from .grow import Limits, dense_cost, estimated_cost, grow
from .guard import box
from .outcome import Declined
from .strategy import Policy, Replacement, Rows

HELD_SHARE = 0.2
"""Share of the calibration that the tree is not grown from; its misses are counted on it."""
MIN_ROWS = 100
"""Fewer rows say nothing about where traffic lives."""
MIN_HIT_SHARE = 0.25
"""Fewer hits cannot pay: every miss walks the tree in vain."""
PROBE_WIDTH = 0.01
"""Half-width of the boxes that are tried first, as a share of the traffic's range."""
PROBES = 16
ROOT_MARGIN = 0.01
"""What is left around the traffic, as a share of its range."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """A guard tree with its proof."""

    tree: RegionTree
    certificate: bytes
    hit_share: float
    """Measured on rows that the tree was not grown from."""

    @property
    def evidence(self) -> Evidence:
        """Of the answers of regions; what the dense code answers is not covered."""
        return Evidence(
            kind=EvidenceKind.PROVEN,
            bound=self.tree.bound,
            box=box_digest(self.tree),
            proven_coverage=self.hit_share,
        )


def regions(graph: Graph, calibration: Rows, policy: Policy) -> Replacement | Declined:
    """The exact code, with reduced code for boxes around the traffic beside it."""
    found = find_regions(graph, calibration)
    if isinstance(found, Declined):
        return found
    return Replacement(
        strategy=Strategy.REGIONS,
        graph=graph,
        guard=box(calibration, graph.integers),
        exact=True,
        note=f"{len(found.tree.regions)} proven boxes hold {found.hit_share:.1%} of held-out rows",
        regions=found.tree,
        certificate=found.certificate,
        proof=found.evidence,
    )


def find_regions(
    graph: Graph,
    calibration: NDArray[np.float32],
    limits: Limits | None = None,
    *,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Regions | Declined:
    """Regions for a segment, from calibration rows [n, *shape]. Whether they pay is for a measurement to say."""
    limits = limits or Limits()
    rows = calibration.reshape(len(calibration), -1)
    rows = np.ascontiguousarray(rows[np.isfinite(rows).all(axis=1)])
    if len(rows) < MIN_ROWS:
        return Declined(reason=f"regions: {len(rows)} calibration rows; at least {MIN_ROWS} are needed")
    try:
        chain = read_chain(graph)
    except NotAChain as error:
        return Declined(reason=f"regions: not a chain of matrices and ReLUs: {error}")
    lower, upper = _root(rows)
    if not _promising(chain, rows, lower, upper):
        return Declined(
            reason=f"regions: {chain.inputs} inputs; even in boxes of {2 * PROBE_WIDTH:.0%} of the traffic's range "
            "too many units can switch"
        )
    held = np.arange(len(rows)) % round(1 / HELD_SHARE) == 0
    progress("grow regions", 0.0)
    tree = grow(
        chain,
        rows[~held],
        lower,
        upper,
        limits=limits,
        progress=lambda fraction: progress("grow regions", fraction),
    )
    if tree is None:
        return Declined(reason="regions: no box that holds traffic has a proof and pays")
    share = hit_share(tree, rows[held])
    if share < MIN_HIT_SHARE:
        return Declined(reason=f"regions: boxes hold {share:.0%} of the traffic, less than {MIN_HIT_SHARE:.0%}")
    certificate = write_certificate(graph, tree)
    progress("check the proof", 1.0)
    try:
        checker.check(graph, certificate)
    except checker.FalseClaim as error:
        return Declined(reason=f"regions: {error.message.rstrip('.')}")
    return Regions(tree=tree, certificate=certificate, hit_share=share)


def _root(rows: NDArray[np.float32]) -> tuple[Array, Array]:
    """The box of the traffic, widened a little; wide enough to split where a feature is constant."""
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    margin = ROOT_MARGIN * (high - low) + 1e-6 * np.maximum(1e-3, np.maximum(np.abs(low), np.abs(high)))
    limit = float(np.finfo(np.float32).max) / 4
    clipped = [np.clip(each, -limit, limit).astype(np.float32) for each in (low - margin, high + margin)]
    return clipped[0], clipped[1]


def _promising(chain: Chain, rows: NDArray[np.float32], lower: Array, upper: Array) -> bool:
    """Whether small boxes around some rows make the network cheap: whether splitting can lead anywhere."""
    chosen = rows[np.linspace(0, len(rows) - 1, PROBES).astype(int)].astype(np.float64)
    width = PROBE_WIDTH * (upper.astype(np.float64) - lower)
    z = bounds(chain, chosen - width, chosen + width)
    costs = [best_fates(chain, z, index, estimated_cost)[1] for index in range(len(chosen))]
    return float(np.median(costs)) < dense_cost(chain) / 2
