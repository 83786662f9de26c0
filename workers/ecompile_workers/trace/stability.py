"""Stability of units over inputs: reported and used to rank, never a proof and never a gate.

S = 1 - sigma / (mu + 1e-6), of the absolute value of a unit over rows and positions. Moments are merged block by block
(Chan, Golub and LeVeque, 1979), so memory is that of one block of rows, and a spread far below the mean is not lost.
Impact = mean |value| times the norm of the weights that read the unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.graph import Graph, Node, Op
from ..ir.interpreter import Values, run
from .capture import block_rows
from .nfrtrace import Kind, Record
from .units import influence, layers, unit_axes

EPSILON = 1e-6
THRESHOLD = 0.95
MAX_ROWS = 2048

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LayerStability:
    """The units of one layer; all arrays [units]."""

    layer: str
    operator: str
    """Of the graph; "trace" where only values are known."""
    units: NDArray[np.int64]
    """Which indices along the axis of units these are."""
    stability: Numbers
    mean: Numbers
    """Of the absolute value."""
    impact: Numbers
    dead: NDArray[np.bool_]
    """Never above zero on these inputs, after a ReLU."""
    samples: int
    """Values that each figure is made of: rows times positions."""

    @property
    def score(self) -> Numbers:
        """What units are ranked by: stability (at least 0) times impact."""
        return np.asarray(np.maximum(self.stability, 0.0) * self.impact)


class Moments:
    """Count, mean, sum of squared differences and maximum per unit; blocks of values come one after the other."""

    def __init__(self, units: int) -> None:
        self.count = 0
        self.mean = np.zeros(units)
        self.squares = np.zeros(units)
        self.highest = np.full(units, -np.inf)

    def add(self, values: Numbers) -> None:
        """Merge values [samples, units]; what is not finite counts as 0."""
        finite = np.where(np.isfinite(values), values, 0.0)
        magnitude = np.abs(finite)
        count, mean = len(values), magnitude.mean(axis=0)
        total = self.count + count
        change = mean - self.mean
        self.squares += ((magnitude - mean) ** 2).sum(axis=0) + change**2 * (self.count * count / total)
        self.mean += change * (count / total)
        self.count = total
        self.highest = np.maximum(self.highest, finite.max(axis=0))

    @property
    def stability(self) -> Numbers:
        """S per unit."""
        spread = np.sqrt(self.squares / max(1, self.count))
        return np.asarray(1.0 - spread / (self.mean + EPSILON))


def measure(graph: Graph, inputs: NDArray[np.float32]) -> tuple[LayerStability, ...]:
    """Stability of all layers of a graph without opaque nodes, on at most 2,048 rows [rows, features]."""
    axes = unit_axes(graph)
    reported = {node.output.name: node for node in layers(graph)}
    moments = {
        name: Moments(node.output.shape[axes[name]] if node.output.shape else 1) for name, node in reported.items()
    }

    def visit(node: Node, values: Values) -> None:
        name = node.output.name
        if name in moments:
            last = np.moveaxis(values, axes[name] + 1, -1) if node.output.shape else values
            moments[name].add(last.reshape(-1, len(moments[name].mean)))

    step = block_rows(graph)
    rows = inputs[:MAX_ROWS]
    for start in range(0, len(rows), step):
        run(graph, rows[start : start + step], visit=visit)
    read = influence(graph, axes)
    return tuple(
        _layer(name, node.op, np.arange(len(moments[name].mean)), moments[name], read[name], relu=node.op is Op.RELU)
        for name, node in reported.items()
    )


def measure_records(records: Iterable[Record]) -> tuple[LayerStability, ...]:
    """The same from the activations of a trace, one record in memory at a time.

    Values of images [channels, height, width] are taken per channel, of sequences [steps, features] per feature; where
    a layer was sampled, per value. Weights are not known, so impact is the mean absolute value; nothing is called dead.
    """
    found: dict[str, tuple[NDArray[np.int64], Moments]] = {}
    for record in records:
        if record.kind is not Kind.ACTIVATION:
            continue
        values = record.values.astype(np.float64)
        if record.positions is None and len(record.shape) > 1:
            values = np.moveaxis(values, 0 if len(record.shape) >= 3 else -1, -1)
            values = values.reshape(-1, values.shape[-1])
        else:
            values = values.reshape(1, -1)
        width = values.shape[1]
        if record.layer not in found:
            units = np.arange(width) if record.positions is None else record.positions
            found[record.layer] = (units, Moments(width))
        if len(found[record.layer][1].mean) == width:  # a layer that is used twice, with other shapes, counts once
            found[record.layer][1].add(values)
    return tuple(
        _layer(name, "trace", units, moments, np.ones(len(units)), relu=False)
        for name, (units, moments) in found.items()
    )


def _layer(
    name: str, operator: str, units: NDArray[np.int64], moments: Moments, read: Numbers, *, relu: bool
) -> LayerStability:
    return LayerStability(
        layer=name,
        operator=str(operator),
        units=units.astype(np.int64),
        stability=moments.stability,
        mean=moments.mean,
        impact=moments.mean * read,
        dead=(moments.highest <= 0) if relu else np.zeros(len(units), dtype=bool),
        samples=moments.count,
    )
