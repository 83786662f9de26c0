"""Strategy: fold. Less to compute for the same function: what nobody reads goes, matrices in a row become one.

Affine maps next to a matrix (batch norms, scalings) are folded by the code generator whatever the strategy; here is
what changes the number of multiply-adds. Products are formed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ecompile_crds.hybridmodel import Strategy

from ..codegen import steps
from ..ir.graph import Graph, Node, Op
from .guard import box
from .outcome import Declined
from .strategy import Policy, Replacement, Rows


def fold(graph: Graph, calibration: Rows, policy: Policy) -> Replacement | Declined:
    """The same function in fewer operators."""
    folded = folded_graph(graph)
    before, after = len(steps.fold(graph).nodes), len(folded.nodes)
    if after == before:
        return Declined(reason="fold: nothing folds but what exact code folds as well")
    note = f"{before} operators became {after}, {graph.macs:,} multiply-adds {folded.macs:,}"
    return Replacement(
        strategy=Strategy.FOLD, graph=folded, guard=box(calibration, graph.integers), exact=True, note=note
    )


def folded_graph(graph: Graph) -> Graph:
    """Affine maps folded, matrices composed, dead operators left out, until nothing changes."""
    current = steps.fold(graph)
    while True:
        smaller = _composed(without_dead(current))
        if smaller is None:
            return without_dead(current)
        current = steps.fold(smaller)


def without_dead(graph: Graph) -> Graph:
    """The operators that the output depends on."""
    wanted = {graph.output.name}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output.name in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))


def _composed(graph: Graph) -> Graph | None:
    """The first matrix that reads only another one, with it: (x A + a) B + b = x (A B) + (a B + b); None: none pays."""
    made = {node.output.name: index for index, node in enumerate(graph.nodes)}
    readers = [name for node in graph.nodes for name in node.inputs]
    for index, node in enumerate(graph.nodes):
        before = made.get(node.inputs[0]) if node.inputs else None
        if before is None or not (_is_constant_matrix(node) and _is_constant_matrix(graph.nodes[before])):
            continue
        first = graph.nodes[before]
        if readers.count(first.output.name) != 1 or first.output == graph.output:
            continue
        a, b = (each.constants["weight"].astype(np.float64) for each in (first, node))
        if a.shape[0] * b.shape[1] > a.size + b.size:
            continue
        bias = first.constants["bias"].astype(np.float64) @ b + node.constants["bias"]
        constants = {"weight": (a @ b).astype(np.float32), "bias": bias.astype(np.float32)}
        if not all(np.isfinite(each).all() for each in constants.values()):
            continue
        whole = replace(node, inputs=first.inputs, constants=constants)
        nodes = [whole if i == index else each for i, each in enumerate(graph.nodes) if i != before]
        return replace(graph, nodes=tuple(nodes))
    return None


def _is_constant_matrix(node: Node) -> bool:
    return node.op is Op.GEMM and node.constants.keys() == {"weight", "bias"}
