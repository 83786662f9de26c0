"""Stability of units over inputs: reported and used to rank, never a proof and never a gate.

S = 1 - sigma / (mu + 1e-6) over the absolute activation of a unit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from ..ir.graph import Graph, Node, Op
from ..ir.interpreter import Values, run

EPSILON = 1e-6
THRESHOLD = 0.95
DBSCAN_EPS = 0.05
DBSCAN_MIN_SAMPLES = 5
TOP_UNITS = 50
MERGE_COVERAGE = 0.80
"""Groups whose units overlap by more than this are one."""
SCHEMA_VERSION = 1
MAX_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class UnitStability:
    """One unit of one layer."""

    layer: str
    unit: int
    stability: float
    impact: float
    """Mean |activation| times the norm of the weights that read it."""
    dead: bool
    """Never above zero on these inputs, after a ReLU."""


def stability(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """S per unit for activations [rows, units]."""
    magnitude = np.abs(values)
    return np.asarray(1.0 - magnitude.std(axis=0) / (magnitude.mean(axis=0) + EPSILON))


def measure(graph: Graph, inputs: NDArray[np.float32]) -> tuple[UnitStability, ...]:
    """Stability of every unit behind an activation, on at most 2,048 rows."""
    found: list[UnitStability] = []
    readers = {n.inputs[0]: n.constants["weight"] for n in graph.nodes if n.op is Op.GEMM}

    def visit(node: Node, values: Values) -> None:
        if node.op not in (Op.RELU, Op.TANH, Op.SIGMOID):
            return
        flat = values.reshape(len(values), -1)
        scores = stability(flat)
        reader = readers.get(node.output.name)
        norms = np.linalg.norm(reader, axis=1) if reader is not None else np.ones(flat.shape[1])
        impact = np.abs(flat).mean(axis=0) * norms
        dead = np.asarray((flat <= 0).all(axis=0)) if node.op is Op.RELU else np.zeros(flat.shape[1], dtype=bool)
        found.extend(
            UnitStability(
                layer=node.output.name, unit=i, stability=float(scores[i]), impact=float(impact[i]), dead=bool(dead[i])
            )
            for i in range(flat.shape[1])
        )

    run(graph, inputs[:MAX_ROWS], visit=visit)
    return tuple(found)


def groups(units: tuple[UnitStability, ...]) -> list[list[int]]:
    """Indices of units with like stability and impact (DBSCAN); groups that overlap by more than 80 % are merged."""
    if len(units) < DBSCAN_MIN_SAMPLES:
        return []
    impacts = np.array([u.impact for u in units])
    points = np.stack([[u.stability for u in units], impacts / max(impacts.max(), EPSILON)], axis=1)
    labels = DBSCAN(eps=DBSCAN_EPS, min_samples=DBSCAN_MIN_SAMPLES).fit_predict(points)
    found = [set(np.flatnonzero(labels == label).tolist()) for label in sorted(set(labels) - {-1})]
    merged: list[set[int]] = []
    for group in found:
        for other in merged:
            if len(group & other) > MERGE_COVERAGE * min(len(group), len(other)):
                other |= group
                break
        else:
            merged.append(group)
    return [sorted(group) for group in merged]


def manifest(units: tuple[UnitStability, ...], *, model_digest: str) -> bytes:
    """The `.nfrsg` file: summary, groups, and the top 50 units by stability times impact."""
    ranked = sorted(units, key=lambda u: -max(u.stability, 0.0) * u.impact)[:TOP_UNITS]
    scores = [u.stability for u in units if not u.dead]
    document: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "modelDigest": model_digest,
        "threshold": THRESHOLD,
        "units": len(units),
        "stable": sum(1 for u in units if u.stability > THRESHOLD and not u.dead),
        "dead": sum(1 for u in units if u.dead),
        "meanStability": float(np.mean(scores)) if scores else None,
        "groups": groups(units),
        "top": [asdict(u) for u in ranked],
        "note": "Stability is reported and used to rank. It proves nothing about inputs not seen.",
    }
    return json.dumps(document, sort_keys=True, indent=1).encode()
