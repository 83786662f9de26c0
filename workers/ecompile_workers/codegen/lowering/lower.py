"""The whole of lowering: one program for a block of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.graph import Graph, Op
from ..blob import Blob
from ..levels import Level
from ..program import Functions, Program
from ..steps import Step
from ..views import Place, Space, View, row_major
from .base import Lowering, Unsupported, inexact
from .elementwise import lower_elementwise
from .images import lower_conv, lower_pool, wanted_halos
from .matrix import lower_attention, lower_gemm, lower_matmul
from .movement import lower_movement
from .recurrent import lower_embedding, lower_recurrent
from .reductions import lower_norm, lower_reduction, lower_softmax

FAMILIES: dict[Op, Callable[[Lowering, Step], None]] = {
    Op.GEMM: lower_gemm,
    Op.MATMUL: lower_matmul,
    Op.ATTENTION: lower_attention,
    Op.CONV: lower_conv,
    Op.MAX_POOL: lower_pool,
    Op.AVERAGE_POOL: lower_pool,
    Op.LAYER_NORM: lower_norm,
    Op.RMS_NORM: lower_norm,
    Op.SOFTMAX: lower_softmax,
    Op.EMBEDDING: lower_embedding,
    Op.LSTM: lower_recurrent,
    Op.GRU: lower_recurrent,
    **dict.fromkeys((Op.REDUCE_MEAN, Op.REDUCE_SUM, Op.REDUCE_MAX, Op.REDUCE_MIN), lower_reduction),
    **dict.fromkeys((Op.RESHAPE, Op.EXPAND, Op.TRANSPOSE, Op.CONCAT, Op.SLICE, Op.GATHER, Op.PAD), lower_movement),
}


def lower(steps: Sequence[Step], graph: Graph, level: Level, rows: int, functions: Functions, blob: Blob) -> Program:
    """The program for `rows` rows at a time.

    Raises Unsupported where an operator cannot be compiled.
    """
    program = Program(level=level, rows=rows, functions=functions, blob=blob)
    lowering = Lowering(program=program, output=graph.output, wanted=wanted_halos(steps, graph))
    shape = lowering.shape(graph.input)
    lowering.views[graph.input.name] = View(place=Place(space=Space.INPUT), shape=shape, strides=row_major(shape))
    for step in steps:
        node = step.node
        if node.op is Op.OPAQUE or inexact(node):
            raise Unsupported(node.source or node.op.value)
        try:
            FAMILIES.get(node.op, lower_elementwise)(lowering, step)
        except Unsupported as error:
            name = node.source or node.op.value
            raise Unsupported(name if str(error) == node.op.value else f"{name} ({error})") from error
    lowering.finish()
    return program
