"""A guard tree: which box an input lies in, and the reduced network of each box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Array
from .reduction import Fates, Step


@dataclass(frozen=True, kw_only=True)
class Split:
    """x[feature] <= threshold goes left. Children come after their parent; the threshold is a float32."""

    feature: int
    threshold: float
    left: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Hit:
    """The input lies in the box of a region."""

    region: int


@dataclass(frozen=True, kw_only=True)
class Miss:
    """The dense code answers."""


TreeNode = Split | Hit | Miss


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box [inputs], the fate of every hidden unit in it, and code that is right there."""

    lower: Array
    upper: Array
    fates: tuple[Fates, ...]
    steps: tuple[Step, ...]
    real_bound: tuple[float, ...]
    """Largest |compiled - network in real numbers| of each output."""
    bound: tuple[float, ...]
    """Largest |compiled - network in float32|, in whatever order that is evaluated."""

    @property
    def macs(self) -> int:
        return sum(step.weight.size for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class RegionTree:
    """Nodes, the root first, inside a box [inputs]; outside of it the dense code answers."""

    lower: Array
    upper: Array
    nodes: tuple[TreeNode, ...]
    regions: tuple[Region, ...]
    last_relu: bool
    """Whether a ReLU follows the last step."""

    @property
    def bound(self) -> float:
        """Largest |compiled - network in float32| of any output in any region."""
        return max(max(region.bound) for region in self.regions)


def find(tree: RegionTree, row: Array) -> int | None:
    """The region that answers one input [inputs], as the compiled code finds it; None where the dense code does."""
    if not bool(((row >= tree.lower) & (row <= tree.upper)).all()):
        return None
    node = tree.nodes[0]
    while isinstance(node, Split):
        node = tree.nodes[node.left if row[node.feature] <= node.threshold else node.right]
    return node.region if isinstance(node, Hit) else None


def hit_share(tree: RegionTree, rows: Sequence[Array] | Array) -> float:
    """Share of rows that a region answers."""
    return sum(find(tree, row) is not None for row in rows) / max(1, len(rows))
