"""Reference semantics: every node by the table's evaluation in numpy float64. Slow on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, Node, Op
from .operators import OPERATORS, Values

__all__ = ["Values", "evaluate", "run"]


def evaluate(node: Node, values: Mapping[str, Values]) -> Values:
    """Output of one node for the tensors it reads, each [rows, *shape].

    Raises ValueError for an opaque node.
    """
    if node.op is Op.OPAQUE:
        raise ValueError(f"operator {node.source} is not known and cannot be interpreted")
    operands = [values[o] if isinstance(o, str) else o.astype(np.float64)[None] for o in node.operands]
    rows = max(operand.shape[0] for operand in operands)
    result = OPERATORS[node.op].evaluate(node.attributes, *operands)
    return np.broadcast_to(result, (rows, *node.output.shape))


def run(graph: Graph, x: NDArray[Any], *, visit: Callable[[Node, Values], None] | None = None) -> Values:
    """Output [rows, *shape] for rows `x`; `visit` sees each node's output.

    Raises ValueError where the graph has an opaque node.
    """
    values: dict[str, Values] = {graph.input.name: x.astype(np.float64).reshape(x.shape[0], *graph.input.shape)}
    last = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}
    with np.errstate(all="ignore"):
        for position, node in enumerate(graph.nodes):
            value = evaluate(node, values)
            if visit is not None:
                visit(node, value)
            values[node.output.name] = value
            for name in node.inputs:
                if last[name] == position and name != graph.output.name:
                    values.pop(name, None)
    return values[graph.output.name]
