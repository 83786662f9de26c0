"""What a strategy is: one function from a segment, its calibration and the policy to a replacement, or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ecompile_crds.evidence import Evidence
from ecompile_crds.hybridmodel import Distill, Equivalence, Strategy
from numpy.typing import NDArray

from ..certify.regions import RegionTree
from ..codegen.abi import GuardBox
from ..ir.graph import Graph
from .outcome import Declined

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user allows."""

    distill: Distill = field(default_factory=Distill)
    equivalence: Equivalence = field(default_factory=Equivalence)


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What a strategy would run in place of a segment. Nothing is compiled or measured yet."""

    strategy: Strategy
    graph: Graph
    """What is compiled: from the segment's input to its output. Rows for which its output is not finite are left to the
    neural path."""
    guard: GuardBox
    exact: bool
    """Whether it computes what the segment computes, but for rounding."""
    note: str
    """What it is, as a sentence without its full stop."""
    regions: RegionTree | None = None
    certificate: bytes | None = None
    proof: Evidence | None = None
    """Of the rows inside of `regions`."""
    certified: Evidence | None = None
    """Where a bound that the code computes for each input stands for a sample."""
    judging: NDArray[np.bool_] | None = None
    """Calibration rows that took no part in making it, and may therefore be evidence; None: all."""


StrategyFunction = Callable[[Graph, Rows, Policy], Replacement | Declined]
"""Calibration rows are [rows, *features] or flat. Raises nothing of its own: what cannot be done is declined."""
