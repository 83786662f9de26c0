"""Strategy: sampled dead units. ReLU units that no calibration row switches on are removed.

Nothing is proven: another input may switch them on. The evidence is a binomial bound from rows that took no part in
choosing the units, and is labelled `sampled`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Strategy
from numpy.typing import NDArray

from ..certify.network import Chain, NotAChain, read_chain
from ..equivalence.metrics import clopper_pearson_upper, row_delta
from ..ir import interpreter
from ..ir.graph import Graph, Op
from .graph_writer import GraphWriter
from .guard import TIGHT, box
from .outcome import Declined
from .strategy import Policy, Replacement, Rows

HELD_SHARE = 0.5
"""Share of the calibration that judges: rows that chose the units say nothing about them."""
MIN_ROWS = 100
MIN_SAVING = 0.05
"""Share of multiply-adds that must go."""
CHUNK_ROWS = 4096
"""Rows that are evaluated at a time: memory stays bounded."""


@dataclass(frozen=True, kw_only=True)
class DeadUnits:
    """The network without the units, and what held-out calibration rows say of it."""

    graph: Graph
    removed: tuple[int, ...]
    """Units of each hidden layer."""
    evidence: Evidence
    max_delta: float
    """Largest relative error of a row that judged."""
    judging: NDArray[np.bool_]
    """Which calibration rows those are."""


def dead_units(graph: Graph, calibration: Rows, policy: Policy) -> Replacement | Declined:
    """A smaller network for rows like those of the calibration: the guard leaves no margin around them."""
    limits = policy.equivalence
    found = find_dead_units(
        graph, calibration, max_relative_error=limits.max_relative_error, confidence=limits.confidence
    )
    if isinstance(found, Declined):
        return found
    return Replacement(
        strategy=Strategy.DEADUNITS,
        graph=found.graph,
        guard=box(calibration, graph.integers, margin=TIGHT),
        exact=False,
        note=f"{sum(found.removed)} units that no sample switches on are left out; largest relative error of "
        f"{found.evidence.samples} other rows {found.max_delta:.1e}",
        judging=found.judging,
    )


def find_dead_units(
    graph: Graph,
    calibration: NDArray[np.float32],
    *,
    max_relative_error: float = 1e-3,
    max_violation: float = 0.05,
    confidence: float = 0.95,
) -> DeadUnits | Declined:
    """A smaller network from calibration rows [n, *shape].

    `max_violation`: the largest bound, at `confidence`, on the share of inputs whose output errs by more than
    `max_relative_error`.
    """
    try:
        chain = read_chain(graph)
    except NotAChain as error:
        return Declined(reason=f"dead units: not a chain of matrices and ReLUs: {error}")
    rows = calibration.reshape(len(calibration), -1)
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    rows = rows[finite]
    if len(rows) < MIN_ROWS:
        return Declined(reason=f"dead units: {len(rows)} calibration rows; at least {MIN_ROWS} are needed")
    judging = np.arange(len(rows)) % round(1 / HELD_SHARE) == 0
    alive = alive_units(chain, rows[~judging])
    reduced = without(graph, chain, alive)
    saving = 1 - reduced.macs / chain.macs
    if saving < MIN_SAVING:
        return Declined(reason=f"dead units: only {saving:.1%} of the multiply-adds go")
    held = rows[judging]
    errors = np.concatenate(
        [_errors(graph, reduced, held[i : i + CHUNK_ROWS]) for i in range(0, len(held), CHUNK_ROWS)]
    )
    over = int((errors > max_relative_error).sum())
    bound = clopper_pearson_upper(over, len(held), confidence)
    if bound > max_violation:
        return Declined(
            reason=f"dead units: {over} of {len(held)} rows err by more than {max_relative_error:g}; up to {bound:.1%} "
            f"of all inputs may, {max_violation:.1%} are allowed"
        )
    return DeadUnits(
        graph=reduced,
        removed=tuple(int((~each).sum()) for each in alive),
        evidence=Evidence(kind=EvidenceKind.SAMPLED, samples=len(held), bound=bound, confidence=confidence),
        max_delta=float(errors.max()),
        judging=_scattered(judging, finite),
    )


def _scattered(chosen: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What was chosen among the rows that were kept, among all rows."""
    found = np.zeros(len(kept), dtype=bool)
    found[np.flatnonzero(kept)[chosen]] = True
    return found


def _errors(graph: Graph, reduced: Graph, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    original, ours = (interpreter.run(each, rows).reshape(len(rows), -1) for each in (graph, reduced))
    return row_delta(original, ours)


def alive_units(chain: Chain, rows: NDArray[np.float32]) -> list[NDArray[np.bool_]]:
    """Per hidden layer, the units that some row [n, inputs] switches on; at least one, so that a layer stays."""
    alive = [np.zeros(units, dtype=bool) for units in chain.hidden]
    for start in range(0, len(rows), CHUNK_ROWS):
        a = rows[start : start + CHUNK_ROWS].astype(np.float64)
        for layer, found in zip(chain.layers, alive, strict=False):
            z = a @ layer.weight + layer.bias
            found |= (z > 0).any(axis=0)
            a = np.maximum(z, 0)
    for found in alive:
        found[0] |= not found.any()
    return alive


def without(graph: Graph, chain: Chain, alive: list[NDArray[np.bool_]]) -> Graph:
    """The chain as matrices and ReLUs, units that are not alive left out."""
    writer = GraphWriter(graph, prefix="deadunits")
    reads = np.ones(chain.inputs, dtype=bool)
    current = writer.flat()
    for number, layer in enumerate(chain.layers):
        last = number == len(chain.layers) - 1
        writes = np.ones(chain.outputs, dtype=bool) if last else alive[number]
        current = writer.gemm(current, layer.weight[np.ix_(reads, writes)], layer.bias[writes])
        if not last or chain.last_relu:
            current = writer.add(Op.RELU, current)
        reads = writes
    return writer.finish(current)
