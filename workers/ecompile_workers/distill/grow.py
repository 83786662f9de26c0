"""Growing a guard tree: boxes are split where the measured traffic lives, and as long as that pays.

Not here: proving (`certify/`) and deciding whether the result is used (`regions.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..certify.bounds import bounds
from ..certify.network import Chain
from ..certify.prove import best_fates, prove
from ..certify.reduction import Fate, Fates
from ..certify.regions import Hit, Miss, Region, RegionTree, Split, TreeNode
from ..ir.graph import Array

STEP_COST = 10.0
"""What starting one more step of a reduced network takes, in multiply-adds of a vector: about 3 ns."""
REGION_COST = 40.0
"""The same for answering at all."""
LEVEL_COST = 16.0
"""The same for one more level of the tree: branches that are often mispredicted (measured)."""
ASSUMED_LANES = 8
CUT_SHARE = 0.25
"""Where a box reaches past its traffic by more than this share of its width, it is cut there."""
CUT_MARGIN = 0.1
"""What is left around the traffic, as a share of its own width: its true range is a little larger than the sample's."""
CUT_ROWS = 50
"""Rows that a box must have seen before it is cut to them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a tree may grow."""

    max_regions: int = 32
    max_boxes: int = 4_000
    """Boxes whose bounds are computed: about a millisecond each."""
    max_bytes: int = 256 * 1024
    """Data of all regions: half of a small second-level cache, as requests of any region may come next."""
    min_share: float = 0.002
    """Boxes with a smaller share of the traffic are left to the dense code."""
    max_bound: float = 0.1
    """Regions whose stated bound is larger are left out: it would say nothing."""
    max_depth: int = 32


def estimated_cost(chain: Chain, fates: Sequence[Fates]) -> float:
    """Vector multiply-adds of the reduced network with what its steps cost beside."""
    vectors = 0.0
    start, size, steps = 0, chain.inputs, 1
    for fate in fates:
        kept = int(((fate == Fate.ON) | (fate == Fate.FREE)).sum())
        vectors += (size - start) * -(-kept // ASSUMED_LANES)
        steps += kept > 0
        if not bool((fate == Fate.FOLDED).any()):
            start = size
        size += kept
    vectors += (size - start) * -(-chain.outputs // ASSUMED_LANES)
    return vectors + steps * STEP_COST + REGION_COST


def dense_cost(chain: Chain) -> float:
    """The same measure for the dense code."""
    steps = len(chain.layers) * STEP_COST
    vectors = sum(
        int(layer.weight.shape[0]) * -(-int(layer.weight.shape[1]) // ASSUMED_LANES) for layer in chain.layers
    )
    return vectors + steps


@dataclass(order=True)
class _Open:
    """A box that may be split: the one with the most to gain comes first."""

    priority: float
    node: int
    lower: Array = field(compare=False)
    upper: Array = field(compare=False)
    rows: NDArray[np.float32] = field(compare=False)
    cost: float = field(compare=False)
    depth: int = field(compare=False)


@dataclass
class _Growth:
    """The tree in the making. Ends are boxes until they are proven."""

    chain: Chain
    limits: Limits
    total: int
    """Rows of traffic in all."""
    nodes: list[TreeNode] = field(default_factory=list)
    ends: dict[int, _Open] = field(default_factory=dict)
    boxes: int = 0

    def costs(self, lower: Array, upper: Array) -> list[tuple[float, int]]:
        """(cost, units that may switch) of boxes [boxes, inputs]."""
        self.boxes += len(lower)
        z = bounds(self.chain, lower.astype(np.float64), upper.astype(np.float64))
        found = []
        for index in range(len(lower)):
            _, cost = best_fates(self.chain, z, index, estimated_cost)
            free = sum(int(((i.lower[index] < 0) & (i.upper[index] > 0)).sum()) for i in z[:-1])
            found.append((min(cost, dense_cost(self.chain)), free))
        return found

    def add(self, node: TreeNode) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def open(self, lower: Array, upper: Array, rows: NDArray[np.float32], cost: float, depth: int) -> int:
        """An end for now; what could be gained by splitting it is its traffic times its cost."""
        index = self.add(Miss())
        share = len(rows) / self.total
        end = _Open(
            priority=-share * (cost - REGION_COST),
            node=index,
            lower=lower,
            upper=upper,
            rows=rows,
            cost=cost,
            depth=depth,
        )
        if share >= self.limits.min_share:
            self.ends[index] = end
        return index


def grow(
    chain: Chain,
    rows: NDArray[np.float32],
    lower: Array,
    upper: Array,
    *,
    limits: Limits,
    progress: Callable[[float], None] = lambda fraction: None,
) -> RegionTree | None:
    """The tree over a box [inputs] for traffic `rows` [n, inputs] in it; None where no region comes of it."""
    growth = _Growth(chain=chain, limits=limits, total=len(rows))
    ((cost, _),) = growth.costs(lower[None], upper[None])
    growth.open(lower, upper, rows, cost, 0)
    queue = [growth.ends[0]]
    while queue and growth.boxes < limits.max_boxes and len(growth.ends) < limits.max_regions:
        progress(growth.boxes / limits.max_boxes)
        end = heapq.heappop(queue)
        if end.depth < limits.max_depth:
            for child in _split(growth, end):
                heapq.heappush(queue, growth.ends[child])
    return _finish(growth, lower, upper)


def _split(growth: _Growth, end: _Open) -> list[int]:
    """Replace an end by a split if that pays; returns the new ends that have traffic."""
    cut = _cut(growth, end)
    if cut is not None:
        return cut
    options = _thresholds(end)
    if not options:
        return []
    lower = np.repeat(end.lower[None], 2 * len(options), axis=0)
    upper = np.repeat(end.upper[None], 2 * len(options), axis=0)
    for index, (feature, threshold) in enumerate(options):
        upper[2 * index, feature] = lower[2 * index + 1, feature] = threshold
    costs = growth.costs(lower, upper)

    def score(index: int) -> tuple[float, float]:
        feature, threshold = options[index]
        left = float((end.rows[:, feature] <= threshold).mean())
        (left_cost, left_free), (right_cost, right_free) = costs[2 * index : 2 * index + 2]
        return left * left_cost + (1 - left) * right_cost, left * left_free + (1 - left) * right_free

    best = min(range(len(options)), key=lambda index: (round(score(index)[0], 1), score(index)[1]))
    proven = end.cost < dense_cost(growth.chain) / 2
    if proven and score(best)[0] + LEVEL_COST > end.cost:
        return []
    feature, threshold = options[best]
    left = end.rows[:, feature] <= threshold
    pairs = [(2 * best, end.rows[left]), (2 * best + 1, end.rows[~left])]
    children = [growth.open(lower[i], upper[i], rows, costs[i][0], end.depth + 1) for i, rows in pairs]
    _replace(growth, end, feature, threshold, *children)
    return [child for child in children if child in growth.ends]


def _replace(growth: _Growth, end: _Open, feature: int, threshold: np.float32, left: int, right: int) -> None:
    growth.nodes[end.node] = Split(feature=feature, threshold=float(threshold), left=left, right=right)
    growth.ends.pop(end.node, None)


def _cut(growth: _Growth, end: _Open) -> list[int] | None:
    """Cut off the side of a box that is emptiest, if it is empty enough; what is cut off is a miss."""
    if len(end.rows) < CUT_ROWS:
        return None
    low, high = end.rows.min(axis=0), end.rows.max(axis=0)
    width = np.maximum(end.upper - end.lower, np.float32(1e-30))
    margin = CUT_MARGIN * (high - low)
    below, above = (low - margin - end.lower) / width, (end.upper - high - margin) / width
    feature = int(np.argmax(np.maximum(below, above)))
    if max(below[feature], above[feature]) < CUT_SHARE:
        return None
    lower, upper = end.lower.copy(), end.upper.copy()
    if below[feature] >= above[feature]:
        threshold = np.float32(low[feature] - margin[feature])
        lower[feature] = threshold
    else:
        threshold = np.float32(high[feature] + margin[feature])
        upper[feature] = threshold
    ((cost, _),) = growth.costs(lower[None], upper[None])
    kept = growth.open(lower, upper, end.rows, cost, end.depth + 1)
    empty = growth.add(Miss())
    order = (empty, kept) if below[feature] >= above[feature] else (kept, empty)
    _replace(growth, end, feature, threshold, *order)
    return [kept]


def _thresholds(end: _Open) -> list[tuple[int, np.float32]]:
    """For each feature, the middle of the box, or of the widest gap in the traffic where that is a wide one."""
    found = []
    for feature in range(len(end.lower)):
        low, high = end.lower[feature], end.upper[feature]
        values = np.sort(end.rows[:, feature])
        threshold = np.float32((np.float64(low) + np.float64(high)) / 2)
        if len(values) > 1:
            gaps = np.diff(values)
            widest = int(np.argmax(gaps))
            if gaps[widest] > CUT_SHARE * (high - low):
                threshold = np.float32((np.float64(values[widest]) + np.float64(values[widest + 1])) / 2)
        if low < threshold < high:
            found.append((feature, threshold))
    return found


def _finish(growth: _Growth, lower: Array, upper: Array) -> RegionTree | None:
    """Prove the ends that are worth it, most gain per byte first, and leave out what became useless."""
    regions: dict[int, Region] = {}
    worth = dense_cost(growth.chain) / 2
    data = 0
    for index, end in sorted(growth.ends.items(), key=lambda item: (-len(item[1].rows), item[0])):
        if end.cost > worth:
            continue
        region = prove(growth.chain, end.lower, end.upper, cost=estimated_cost)
        size = region_bytes(region)
        if _says_something(region, growth.limits) and data + size <= growth.limits.max_bytes:
            regions[index] = region
            data += size
    if not regions:
        return None
    nodes, proven = _compact(growth.nodes, regions)
    return RegionTree(lower=lower, upper=upper, nodes=nodes, regions=proven, last_relu=growth.chain.last_relu)


def _says_something(region: Region, limits: Limits) -> bool:
    """Whether the code is proven to be as close to the network in real numbers as the network in float32 is."""
    close = all(ours <= both - ours for ours, both in zip(region.real_bound, region.bound, strict=True))
    return close and max(region.bound) <= limits.max_bound


def region_bytes(region: Region) -> int:
    """About what a region takes in the module: outputs are padded to full vectors, each step has a header."""
    return sum(
        64 + 4 * (len(step.weight) + 1) * -(-step.bias.size // ASSUMED_LANES) * ASSUMED_LANES for step in region.steps
    )


def _compact(nodes: Sequence[TreeNode], regions: dict[int, Region]) -> tuple[tuple[TreeNode, ...], tuple[Region, ...]]:
    """Nodes from the root, parents first; a split without a region on either side is a miss."""
    live = [index in regions for index in range(len(nodes))]
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        if isinstance(node, Split):
            live[index] = live[node.left] or live[node.right]
    order, found = [0], list[Region]()
    kept: list[TreeNode] = []
    for index in order:
        node = nodes[index]
        if isinstance(node, Split) and live[index]:
            kept.append(Split(feature=node.feature, threshold=node.threshold, left=len(order), right=len(order) + 1))
            order += [node.left, node.right]
        elif index in regions:
            kept.append(Hit(region=len(found)))
            found.append(regions[index])
        else:
            kept.append(Miss())
    return tuple(kept), tuple(found)
