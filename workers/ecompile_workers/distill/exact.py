"""Strategy: the segment as tiled code with its weights baked in. The others are measured against it."""

from __future__ import annotations

from ecompile_crds.hybridmodel import Strategy

from ..ir.graph import Graph
from .guard import box
from .outcome import Declined
from .strategy import Policy, Replacement, Rows


def exact(graph: Graph, calibration: Rows, policy: Policy) -> Replacement | Declined:
    """Always possible: what cannot be compiled is no segment to distil."""
    guard = box(calibration, graph.integers)
    note = "the segment as tiled code"
    return Replacement(strategy=Strategy.EXACT, graph=graph, guard=guard, exact=True, note=note)
