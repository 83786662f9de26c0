"""Strategy: symbolic. A segment with few inputs as a formula, found by the engines and judged by rows they never saw.

The guard leaves no margin around the calibration: a network trained on a formula leaves it where training ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ecompile_crds.errors import EcompileError
from ecompile_crds.hybridmodel import Strategy

from ...ir.attributes import Target
from ...ir.graph import Graph, Node, Op, Tensor
from ...ir.interpreter import run
from ..guard import TIGHT, box
from ..outcome import Declined
from ..strategy import Policy, Replacement, Rows
from .engine import MAX_INPUTS, Engine
from .expression import Numbers
from .printing import supported_by_graph, to_graph, to_text
from .search import Formula, NoFormula, regress

JUDGING_EVERY = 4
"""Every so many rows are kept from the search: they are the evidence."""
NOTE_CHARACTERS = 300


def symbolic(
    graph: Graph, calibration: Rows, policy: Policy, *, engines: Sequence[Engine] | None = None
) -> Replacement | Declined:
    """One expression per output, within spec.equivalence.maxDeviation of the segment wherever it was tried."""
    if graph.input.size > MAX_INPUTS:
        return Declined(reason=f"symbolic: {graph.input.size} inputs; formulas are sought for at most {MAX_INPUTS}")
    rows = calibration.reshape(len(calibration), -1)
    judging = np.arange(len(rows)) % JUDGING_EVERY == 0
    guard = box(rows, graph.integers, margin=TIGHT)
    seen = rows[~judging]
    if len(seen) == 0:
        return Declined(reason=f"symbolic: {len(rows)} calibration rows")
    tolerance = _tolerance(run(graph, seen).reshape(len(seen), -1), policy.equivalence.max_deviation)
    found = regress(graph, seen.astype(np.float64), tolerance=tolerance, engines=engines, guard=guard)
    if isinstance(found, NoFormula):
        return Declined(reason=f"symbolic: {found.reason}")
    lacking = [each for each in found.expressions if not supported_by_graph(each)]
    if lacking:
        return Declined(reason=f"symbolic: code has no sin and cos yet, which {to_text(lacking[0])} needs")
    try:
        whole = to_graph(found.expressions, graph.input.size)
    except EcompileError as error:
        return Declined(reason=f"symbolic: {error.message.rstrip('.')}")
    return Replacement(
        strategy=Strategy.SYMBOLIC,
        graph=reshaped(whole, graph),
        guard=guard,
        exact=False,
        note=_note(found),
        judging=judging,
    )


def _tolerance(outputs: Numbers, max_deviation: float) -> float:
    """The policy's largest deviation, as `regress` measures it: relative to half of the range of the widest output."""
    allowed = max_deviation * max(1.0, float(np.abs(outputs).max()))
    half = np.ptp(outputs, axis=0) / 2
    largest = float(np.where(half > 0, half, np.maximum(np.abs(outputs).max(axis=0), 1e-30)).max())
    return allowed / largest


def _note(found: Formula) -> str:
    text = "; ".join(f"y{index} = {to_text(expression)}" for index, expression in enumerate(found.expressions))
    worst = max(max(each.held_out_error, each.box_error) for each in found.outputs)
    if len(text) > NOTE_CHARACTERS:
        text = f"{text[: NOTE_CHARACTERS - 3]}..."
    return f"{text}; {found.verdict.value}, off by at most {worst:.1e} of half the range where it was tried"


def reshaped(formula: Graph, segment: Graph) -> Graph:
    """The formula between tensors of the segment's names and shapes; all others get names of their own."""

    def own(name: str) -> str:
        return f"formula.{name}"

    def moved(source: Tensor, target: Tensor) -> Node:
        return Node(op=Op.RESHAPE, inputs=(source.name,), output=target, attributes=Target(shape=target.shape))

    first = replace(formula.input, name=own(formula.input.name))
    nodes = [
        replace(node, inputs=tuple(map(own, node.inputs)), output=replace(node.output, name=own(node.output.name)))
        for node in formula.nodes
    ]
    last = moved(replace(formula.output, name=own(formula.output.name)), segment.output)
    return replace(segment, nodes=(moved(segment.input, first), *nodes, last))
