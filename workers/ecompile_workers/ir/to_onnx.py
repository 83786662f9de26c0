"""From our graph back to ONNX, so that every source has a neural path in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import Graph, Node, Op, Tensor
from .onnx_importer import BATCH

OPSET = 17
IR_VERSION = 9
UNARY = {Op.RELU: "Relu", Op.TANH: "Tanh", Op.SIGMOID: "Sigmoid"}


def export(graph: Graph, *, name: str = "model") -> onnx.ModelProto:
    """The graph as a model with a dynamic batch.

    Raises ValueError where it has an opaque node.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for node in graph.nodes:
        _emit(node, nodes, initializers)
    model = helper.make_model(
        helper.make_graph(nodes, name, [_info(graph.input)], [_info(graph.output)], initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="ecompile",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, [BATCH, *tensor.shape])


def _emit(node: Node, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> None:
    x, y = node.inputs[0], node.output.name

    def constant(key: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"{y}.{key}"
        initializers.append(numpy_helper.from_array(value, name))
        return name

    match node.op:
        case Op.GEMM:
            names = [constant(k, node.constants[k]) for k in ("weight", "bias")]
            nodes.append(helper.make_node("Gemm", [x, *names], [y]))
        case Op.AFFINE:
            names = [constant(k, node.constants[k][None]) for k in ("scale", "shift")]
            nodes.append(helper.make_node("Mul", [x, names[0]], [f"{y}.scaled"]))
            nodes.append(helper.make_node("Add", [f"{y}.scaled", names[1]], [y]))
        case Op.BATCH_NORM:
            names = [constant(k, node.constants[k]) for k in ("gamma", "beta", "mean", "variance")]
            nodes.append(helper.make_node("BatchNormalization", [x, *names], [y], epsilon=node.epsilon))
        case Op.RELU | Op.TANH | Op.SIGMOID:
            nodes.append(helper.make_node(UNARY[node.op], [x], [y]))
        case Op.SOFTMAX:
            nodes.append(helper.make_node("Softmax", [x], [y], axis=-1))
        case Op.RESHAPE:
            shape = np.asarray([0 if len(node.output.shape) else -1, *node.output.shape], dtype=np.int64)
            nodes.append(helper.make_node("Reshape", [x, constant("shape", shape)], [y]))
        case Op.OPAQUE:
            raise ValueError(f"operator {node.source} has no ONNX form here")
