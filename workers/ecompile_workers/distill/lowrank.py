"""Strategy: low rank with a certificate. Matrices become two thin ones where the traffic, or a matrix itself, is thin.

Each input is checked: the part of a layer's input that the thin matrices do not see is computed, and what it, and the
rounding of every step, could change at the output is bounded by operator norms (`lowrank_bound.py`). An input whose
bound exceeds the stated one is not answered: its output is made infinite, which every module refuses. The stated bound
is the policy's largest deviation plus what worst-case rounding adds for the calibration's inputs.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Strategy
from numpy.typing import NDArray

from ..certify.network import Chain, NotAChain, Values, read_chain
from ..ir.attributes import Cast, Reduction
from ..ir.graph import DType, Graph, Op
from .graph_writer import GraphWriter
from .guard import box
from .lowrank_bound import Deviation, Factor, deviation, make_factor, operator_norm
from .outcome import Declined
from .strategy import Policy, Replacement, Rows

MIN_ROWS = 100
MAX_ROWS = 2000
"""Calibration rows whose spectra are looked at."""
MAX_WIDTH = 2048
"""Of a layer's input: the spectrum of a wider one takes minutes."""
ANSWERED = 0.98
"""Share of calibration rows whose certificate must hold."""
WATCHED_SHARE = 0.7
"""A layer is factored where the multiply-adds, those of the certificate included, fall below this share."""
MIN_SAVING = 0.1
"""Share of the network's multiply-adds that must go."""
MAX_ROUNDING = 0.1
"""Largest bound on rounding that still says something, relative to the outputs (as for regions)."""
ROUNDING_ROOM = 1.25
"""Inputs may be longer than those of the calibration by about this factor."""
ROOM = 0.9
"""Share of the allowed deviation that ranks are chosen for: inputs differ from the calibration."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """A network with factored matrices, and its certificate."""

    graph: Graph
    factors: dict[int, Factor]
    deviation: Deviation
    tolerance: float
    """What is allowed for the part that the thin matrices do not see."""
    bound: float
    """Largest |compiled - original| of any output that is given, rounding included."""


def low_rank(graph: Graph, calibration: Rows, policy: Policy) -> Replacement | Declined:
    """Factored matrices for rows like those of the calibration; others are left to the neural path."""
    found = find_low_rank(graph, calibration, max_deviation=policy.equivalence.max_deviation)
    if isinstance(found, Declined):
        return found
    ranks = ", ".join(
        f"layer {number}: {factor.rank} of {len(factor.basis)}{'' if factor.watched else ' (the matrix itself)'}"
        for number, factor in found.factors.items()
    )
    rounding = found.bound - found.tolerance
    return Replacement(
        strategy=Strategy.LOWRANK,
        graph=found.graph,
        guard=box(calibration, graph.integers),
        exact=False,
        note=f"ranks: {ranks}; certified to {found.tolerance:.1e} and {rounding:.1e} of worst-case rounding",
        certified=Evidence(kind=EvidenceKind.CERTIFIED, bound=found.bound),
    )


def find_low_rank(graph: Graph, calibration: Rows, *, max_deviation: float) -> LowRank | Declined:
    """`max_deviation`: of outputs, relative to the largest one where that exceeds 1."""
    rows = calibration.reshape(len(calibration), -1).astype(np.float64)
    if len(rows) < MIN_ROWS:
        return Declined(reason=f"low rank: {len(rows)} calibration rows; at least {MIN_ROWS} are needed")
    try:
        chain = read_chain(graph)
    except NotAChain as error:
        return Declined(reason=f"low rank: not a chain of matrices and ReLUs: {error}")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(int)]
    activations = _activations(chain, rows)
    scale = max(1.0, float(np.abs(activations[-1]).max()))
    tolerance = max_deviation * scale
    factors = _factors(chain, activations, tolerance)
    if not factors:
        return Declined(reason="low rank: no layer's input or matrix is thin enough for the allowed deviation")
    saved = 1 - sum(_macs(chain, number, factors.get(number)) for number in range(len(chain.layers))) / chain.macs
    if saved < MIN_SAVING:
        return Declined(reason=f"low rank: only {saved:.1%} of the multiply-adds go")
    found = deviation(chain, factors)
    first = factors.get(0)
    sizes = np.linalg.norm(rows - first.mean if first is not None else rows, axis=1)
    rounding = ROUNDING_ROOM * float(found.of(sizes, dict.fromkeys(found.factors, np.zeros(1))).max())
    if not rounding <= MAX_ROUNDING * scale:
        return Declined(reason=f"low rank: rounding alone may change an output by {rounding:.1e}")
    bound = tolerance + rounding
    return LowRank(
        graph=_graph(graph, chain, factors, found, bound),
        factors=factors,
        deviation=found,
        tolerance=tolerance,
        bound=bound,
    )


def _activations(chain: Chain, rows: Values) -> list[Values]:
    """What each layer reads, and the output."""
    found = [rows]
    for number, layer in enumerate(chain.layers):
        z = found[-1] @ layer.weight + layer.bias
        found.append(z if number == len(chain.layers) - 1 and not chain.last_relu else np.maximum(z, 0))
    return found


def _macs(chain: Chain, number: int, factor: Factor | None) -> int:
    inputs, outputs = chain.layers[number].weight.shape
    if factor is None:
        return int(inputs * outputs)
    return int(factor.rank * (inputs * (2 if factor.watched else 1) + outputs))


def _factors(chain: Chain, activations: Sequence[Values], tolerance: float) -> dict[int, Factor]:
    """The layers that become cheaper; first as if each had the whole tolerance, then with equal shares of it."""
    after = _stretch_after(chain)
    norms = [float(np.linalg.norm(a, axis=1).max()) for a in activations[:-1]]
    chosen = list(range(len(chain.layers)))
    for _ in range(2):
        share = ROOM * tolerance / max(1, len(chosen))
        found = {n: _factor(chain, n, activations[n], share / after[n], norms[n]) for n in chosen}
        factors = {number: factor for number, factor in found.items() if factor is not None}
        chosen = list(factors)
    return factors


def _stretch_after(chain: Chain) -> list[float]:
    """By how much a difference in each layer's result may grow until the output."""
    found = [1.0]
    for number in range(len(chain.layers) - 1, 0, -1):
        found.append(found[-1] * operator_norm(chain.layers[number], last=number == len(chain.layers) - 1))
    return found[::-1]


def _factor(chain: Chain, number: int, read: Values, allowed: float, norm: float) -> Factor | None:
    """A layer in two thin matrices whose result errs by at most `allowed`; None where that is no gain."""
    layer = chain.layers[number]
    inputs, outputs = layer.weight.shape
    if inputs > MAX_WIDTH:
        return None
    left, sizes, _ = np.linalg.svd(layer.weight, full_matrices=False)
    rank = int((sizes * norm > allowed).sum())
    if rank > 0 and rank * (inputs + outputs) <= WATCHED_SHARE * inputs * outputs:
        return make_factor(layer, left[:, :rank], np.zeros(inputs), watched=False)
    mean = read.mean(axis=0)
    moved = read - mean
    _, axes = np.linalg.eigh(moved.T @ moved)
    axes = axes[:, ::-1]
    missed = np.sqrt(np.cumsum(((moved @ axes) ** 2)[:, ::-1], axis=1))[:, ::-1]  # [rows, rank]

    def fits(rank: int) -> bool:
        residual = layer.weight - axes[:, :rank] @ (axes[:, :rank].T @ layer.weight)
        return bool(np.linalg.norm(residual, 2) * np.quantile(missed[:, rank], ANSWERED) <= allowed)

    ranks = _ranks(inputs, outputs)
    found = bisect.bisect_left(ranks, True, key=fits)
    return make_factor(layer, axes[:, : ranks[found]], mean, watched=True) if found < len(ranks) else None


def _ranks(inputs: int, outputs: int) -> list[int]:
    """Ranks that pay, from small to large."""
    largest = min(inputs - 1, int(WATCHED_SHARE * inputs * outputs / (2 * inputs + outputs)))
    steps = sorted({round(2 ** (step / 4)) for step in range(64)})
    return [rank for rank in steps if rank <= largest]


def _graph(graph: Graph, chain: Chain, factors: dict[int, Factor], deviation: Deviation, bound: float) -> Graph:
    """The network with its certificate: outputs are divided by 1 where it holds, by 0 where it does not."""
    writer = GraphWriter(graph, prefix="lowrank")
    current = writer.flat()
    terms: list[str] = []
    for number, layer in enumerate(chain.layers):
        factor = factors.get(number)
        if factor is not None and factor.watched:
            current = writer.add(Op.SUB, current, b=factor.mean)
        if number == 0:
            terms.append(_norm(writer, current, deviation.size))
        if factor is None:
            current = writer.gemm(current, layer.weight, layer.bias)
        else:
            code = writer.gemm(current, factor.basis, np.zeros(factor.rank))
            if factor.watched:
                missed = writer.add(Op.ADD, writer.gemm(code, -factor.basis.T, np.zeros(len(factor.basis))), current)
                terms.append(_norm(writer, missed, deviation.factors[number]))
            current = writer.gemm(code, factor.middle, factor.shift)
        if number < len(chain.layers) - 1 or chain.last_relu:
            current = writer.add(Op.RELU, current)
    total = terms[0]
    for term in terms[1:]:
        total = writer.add(Op.ADD, total, term)
    # Three roundings a term: of the root, the product and the sum.
    limit = (bound - deviation.static) * (1 - (3 * len(terms) + 2) * 2.0**-23)
    holds = writer.add(Op.LESS_OR_EQUAL, total, b=_scalar(np.nextafter(np.float32(limit), np.float32(0))))
    one = writer.add(Op.CAST, holds, attributes=Cast(to=DType.FLOAT32))
    return writer.finish(writer.add(Op.DIV, current, one))


def _norm(writer: GraphWriter, vector: str, factor: float) -> str:
    """factor * |vector|, [1]; the factor is rounded up."""
    squares = writer.add(Op.MUL, vector, vector)
    total = writer.add(Op.REDUCE_SUM, squares, attributes=Reduction(axes=(0,), keep=True))
    root = writer.add(Op.SQRT, total)
    return writer.add(Op.MUL, root, b=_scalar(np.nextafter(np.float32(factor), np.float32(np.inf))))


def _scalar(value: np.float32) -> NDArray[np.floating]:
    return np.array([value], dtype=np.float32)
