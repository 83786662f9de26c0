"""From our graph back to ONNX, so that every source has a neural path in ONNX Runtime."""

from __future__ import annotations

import onnx
from onnx import helper

from .graph import Graph, Op, Tensor
from .onnx_importer import BATCH
from .onnx_target import arithmetic, movement, networks, recurrent
from .onnx_target.writer import TYPES, Emitter, Writer

OPSET = 20
IR_VERSION = 9
EMITTERS: dict[Op, Emitter] = {
    **arithmetic.EMITTERS,
    **networks.EMITTERS,
    **movement.EMITTERS,
    **recurrent.EMITTERS,
}


def export(graph: Graph, *, name: str = "model") -> onnx.ModelProto:
    """The graph as a model with a dynamic batch.

    Raises ValueError where it has an opaque node.
    """
    writer = Writer(graph)
    for node in graph.nodes:
        if node.op is Op.OPAQUE:
            raise ValueError(f"operator {node.source} has no ONNX form here")
        EMITTERS[node.op](writer, node)
    model = helper.make_model(
        helper.make_graph(writer.nodes, name, [_info(graph.input)], [_info(graph.output)], writer.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="ecompile",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TYPES[tensor.dtype], [BATCH, *tensor.shape])
