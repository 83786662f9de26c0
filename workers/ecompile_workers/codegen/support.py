"""What the code generator can compile. Everything else is correct, but stays neural."""

from __future__ import annotations

from ..ir.graph import ACTIVATIONS, DType, Graph, Node, Op, Tensor
from .fold import ELEMENTWISE


def obstacle(graph: Graph) -> str | None:
    """Why a part between two cut points is not compiled yet: its operators, comma-separated; None where it is.

    Compiled are chains of matrix layers on flat rows, with activations, batch norms and affine maps between them.
    """
    known = graph.tensors
    chain = len(graph.nodes) == 1
    if chain and _dense(graph.nodes[0], known):
        return None
    return ", ".join(dict.fromkeys(node.source or node.op.value for node in graph.nodes))


def _dense(node: Node, known: dict[str, Tensor]) -> bool:
    """Whether a node is part of a matrix layer on flat rows."""
    if len(node.inputs) != 1 or node.output.dtype is not DType.FLOAT32:
        return False
    x = known[node.inputs[0]]
    if x.dtype is not DType.FLOAT32:
        return False
    match node.op:
        case Op.RESHAPE:
            return True
        case Op.GEMM | Op.BATCH_NORM:
            return len(x.shape) == 1
        case Op.SOFTMAX:
            return len(x.shape) == 1
        case _ if node.op in ACTIVATIONS:
            return True
        case _ if node.op in ELEMENTWISE:
            return node.output.shape == x.shape
        case _:
            return False
