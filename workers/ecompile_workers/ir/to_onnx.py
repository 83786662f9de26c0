"""From our graph back to ONNX, so that every source has a neural path in ONNX Runtime."""

from __future__ import annotations

import onnx
from onnx import helper

from .graph import Graph, Node, Op, Tensor
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
    """The graph as a model with a dynamic batch and the inputs of its source, each by itself.

    Raises ValueError where it has an opaque node.
    """
    writer = Writer(graph)
    for node in _without_unpacking(graph):
        if node.op is Op.OPAQUE:
            raise ValueError(f"operator {node.source} has no ONNX form here")
        EMITTERS[node.op](writer, node)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            name,
            [_info(each) for each in graph.inputs or (graph.input,)],
            [_info(graph.output)],
            writer.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="ecompile",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _without_unpacking(graph: Graph) -> list[Node]:
    """Nodes without those that take the row of several inputs apart: the last of each has its input's name."""
    given = {each.name for each in graph.inputs}
    needed, kept = {graph.output.name}, []
    for node in reversed(graph.nodes):
        if node.output.name in needed and node.output.name not in given:
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TYPES[tensor.dtype], [BATCH, *tensor.shape])
