"""Operators on single elements, softmax and reductions in ONNX."""

from __future__ import annotations

import math
from functools import partial

from ..attributes import Axis, Bounds, Cast, Gelu, Line, Reduction, Slope
from ..graph import DType, Node, Op
from .writer import ARRAYS, TYPES, Emitter, Writer


def unary(writer: Writer, node: Node, *, op_type: str) -> None:
    writer.add(node, op_type, writer.operands(node), last=True)


def binary(writer: Writer, node: Node, *, op_type: str) -> None:
    """Constants have the element type of the tensor beside them."""
    dtype = writer.tensors[node.inputs[0]].dtype
    rank = len(node.output.shape)
    operands = [writer.aligned(node, o, rank) for o in writer.operands(node, dtype)]
    writer.add(node, op_type, operands, last=True)


def where(writer: Writer, node: Node) -> None:
    names = []
    for operand, dtype in zip(node.operands, (DType.BOOL, node.output.dtype, node.output.dtype), strict=True):
        known = isinstance(operand, str)
        name = operand if known else writer.constant(node, operand, ARRAYS[dtype])
        names.append(writer.aligned(node, str(name), len(node.output.shape)))
    writer.add(node, "Where", names, last=True)


def leaky_relu(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Slope)
    writer.add(node, "LeakyRelu", node.inputs, last=True, alpha=node.attributes.slope)


def hard_sigmoid(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Line)
    line = node.attributes
    writer.add(node, "HardSigmoid", node.inputs, last=True, alpha=line.alpha, beta=line.beta)


def gelu(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Gelu)
    form = {"erf": "none", "tanh": "tanh"}[node.attributes.form]
    writer.add(node, "Gelu", node.inputs, last=True, approximate=form)


def silu(writer: Writer, node: Node) -> None:
    (x,) = node.inputs
    writer.add(node, "Mul", [x, writer.add(node, "Sigmoid", [x])], last=True)


def clip(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Bounds)
    dtype = ARRAYS[node.output.dtype]
    bounds = (node.attributes.lower, node.attributes.upper)
    names = ["" if math.isinf(bound) else writer.constant(node, bound, dtype) for bound in bounds]
    writer.add(node, "Clip", [*node.inputs, *names], last=True)


def cast(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Cast)
    writer.add(node, "Cast", node.inputs, last=True, to=TYPES[node.attributes.to])


def softmax(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Axis)
    axis = node.attributes.axis
    writer.add(node, "Softmax", node.inputs, last=True, axis=axis if axis < 0 else axis + 1)


def reduction(writer: Writer, node: Node, *, op_type: str) -> None:
    assert isinstance(node.attributes, Reduction)
    axes = writer.integers(node, [a if a < 0 else a + 1 for a in node.attributes.axes])
    writer.add(node, op_type, [*node.inputs, axes], last=True, keepdims=int(node.attributes.keep))


UNARY = {
    Op.RELU: "Relu", Op.SIGMOID: "Sigmoid", Op.TANH: "Tanh", Op.NEG: "Neg", Op.ABS: "Abs", Op.SQRT: "Sqrt",
    Op.EXP: "Exp", Op.LOG: "Log", Op.ERF: "Erf", Op.NOT: "Not", Op.HARD_SWISH: "HardSwish",
}  # fmt: skip
BINARY = {
    Op.ADD: "Add", Op.SUB: "Sub", Op.MUL: "Mul", Op.DIV: "Div", Op.POW: "Pow", Op.MINIMUM: "Min", Op.MAXIMUM: "Max",
    Op.EQUAL: "Equal", Op.LESS: "Less", Op.LESS_OR_EQUAL: "LessOrEqual", Op.GREATER: "Greater",
    Op.GREATER_OR_EQUAL: "GreaterOrEqual", Op.AND: "And", Op.OR: "Or",
}  # fmt: skip
REDUCTIONS = {
    Op.REDUCE_MEAN: "ReduceMean",
    Op.REDUCE_SUM: "ReduceSum",
    Op.REDUCE_MAX: "ReduceMax",
    Op.REDUCE_MIN: "ReduceMin",
}
EMITTERS: dict[Op, Emitter] = {
    **{op: partial(unary, op_type=name) for op, name in UNARY.items()},
    **{op: partial(binary, op_type=name) for op, name in BINARY.items()},
    **{op: partial(reduction, op_type=name) for op, name in REDUCTIONS.items()},
    Op.WHERE: where,
    Op.LEAKY_RELU: leaky_relu,
    Op.HARD_SIGMOID: hard_sigmoid,
    Op.GELU: gelu,
    Op.SILU: silu,
    Op.CLIP: clip,
    Op.CAST: cast,
    Op.SOFTMAX: softmax,
}
