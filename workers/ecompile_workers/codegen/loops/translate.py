"""A graph as nests, operator by operator."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Graph, Node, Op
from ..lowering.base import Unsupported, inexact
from ..steps import fold
from ..views import Place, Space, View, row_major
from .elements import elementwise
from .matrices import attention, convolution, gemm, matmul, pool
from .movement import embedding, movement
from .program import Loops, at
from .recurrent import recurrent
from .reductions import norm, reduction, softmax_node

FAMILIES: dict[Op, Callable[[Loops, Node], None]] = {
    Op.GEMM: gemm,
    Op.MATMUL: matmul,
    Op.ATTENTION: attention,
    Op.EMBEDDING: embedding,
    Op.CONV: convolution,
    Op.MAX_POOL: pool,
    Op.AVERAGE_POOL: pool,
    Op.LAYER_NORM: norm,
    Op.RMS_NORM: norm,
    Op.SOFTMAX: softmax_node,
    Op.LSTM: recurrent,
    Op.GRU: recurrent,
    **dict.fromkeys((Op.REDUCE_MEAN, Op.REDUCE_SUM, Op.REDUCE_MAX, Op.REDUCE_MIN), reduction),
    **dict.fromkeys((Op.RESHAPE, Op.EXPAND, Op.TRANSPOSE, Op.CONCAT, Op.SLICE, Op.GATHER, Op.PAD), movement),
}


def translate(graph: Graph) -> Loops:
    """The program for one row.

    Raises Unsupported naming the operator that cannot be written.
    """
    folded = fold(graph)
    loops = Loops()
    shape = graph.input.shape
    loops.tensors[graph.input.name] = View(place=Place(space=Space.INPUT), shape=shape, strides=row_major(shape))
    for node in folded.nodes:
        name = node.source or node.op.value
        if node.op is Op.OPAQUE or inexact(node):
            raise Unsupported(name)
        try:
            FAMILIES.get(node.op, elementwise)(loops, node)
        except Unsupported as error:
            raise Unsupported(name if str(error) == node.op.value else f"{name} ({error})") from error
    shape = graph.output.shape
    target = View(place=Place(space=Space.OUTPUT), shape=shape, strides=row_major(shape))
    loops.put(target, at(loops.tensors[graph.output.name], shape))
    return loops
