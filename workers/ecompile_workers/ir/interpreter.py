"""Reference semantics: numpy, float64, one readable line per operator. Slow on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, Node, Op

Values = NDArray[np.float64]


def evaluate(node: Node, x: Values) -> Values:
    """Output of one node for rows `x` [rows, features...].

    Raises ValueError for an opaque node.
    """
    c = {name: value.astype(np.float64) for name, value in node.constants.items()}
    rows = x.shape[0]
    match node.op:
        case Op.GEMM:
            return x.reshape(rows, -1) @ c["weight"] + c["bias"]
        case Op.AFFINE:
            return x * c["scale"] + c["shift"]
        case Op.BATCH_NORM:
            return (x - c["mean"]) / np.sqrt(c["variance"] + node.epsilon) * c["gamma"] + c["beta"]
        case Op.RELU:
            return np.maximum(x, 0.0)
        case Op.TANH:
            return np.tanh(x)
        case Op.SIGMOID:
            return 1.0 / (1.0 + np.exp(-x))
        case Op.SOFTMAX:
            shifted = np.exp(x - x.max(axis=-1, keepdims=True))
            return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
        case Op.RESHAPE:
            return x.reshape(rows, *node.output.shape)
        case Op.OPAQUE:
            raise ValueError(f"operator {node.source} is not known and cannot be interpreted")
        case _:
            assert_never(node.op)


def run(graph: Graph, x: NDArray[np.floating], *, visit: Callable[[Node, Values], None] | None = None) -> Values:
    """Output [rows, features...] for rows `x`; `visit` sees each node's output.

    Raises ValueError where the graph has an opaque node.
    """
    values = {graph.input.name: x.astype(np.float64).reshape(x.shape[0], *graph.input.shape)}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            value = evaluate(node, values[node.inputs[0]])
            values[node.output.name] = value.reshape(x.shape[0], *node.output.shape)
            if visit is not None:
                visit(node, values[node.output.name])
    return values[graph.output.name]
