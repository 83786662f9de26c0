"""Operators that move elements in ONNX; every axis is one further, behind the batch."""

from __future__ import annotations

from ..attributes import Axis, Indices, Order, Padding, Ranges, Target
from ..graph import Node, Op
from .writer import ARRAYS, Emitter, Writer


def reshape(writer: Writer, node: Node) -> None:
    """A size of 0 copies the batch."""
    assert isinstance(node.attributes, Target)
    shape = writer.integers(node, [0, *node.attributes.shape])
    writer.add(node, "Reshape", [*node.inputs, shape], last=True)


def expand(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Target)
    shape = node.attributes.shape
    x = writer.aligned(node, node.inputs[0], len(shape))
    writer.add(node, "Expand", [x, writer.integers(node, [1, *shape])], last=True)


def transpose(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Order)
    order = [0, *(i + 1 for i in node.attributes.order)]
    writer.add(node, "Transpose", node.inputs, last=True, perm=order)


def concat(writer: Writer, node: Node) -> None:
    """Constants are repeated for every row."""
    assert isinstance(node.attributes, Axis)
    axis = node.attributes.axis
    names = []
    for operand in node.operands:
        if isinstance(operand, str):
            names.append(operand)
        else:
            constant = writer.constant(node, operand, ARRAYS[node.output.dtype])
            names.append(writer.repeated(node, constant, operand.shape, node.inputs[0]))
    writer.add(node, "Concat", names, last=True, axis=axis if axis < 0 else axis + 1)


def cut(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Ranges)
    a = node.attributes
    axes = range(1, 1 + len(a.starts))
    operands = [writer.integers(node, values) for values in (a.starts, a.stops, axes, a.steps)]
    writer.add(node, "Slice", [*node.inputs, *operands], last=True)


def gather(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Indices)
    a = node.attributes
    axis = a.axis if a.axis < 0 else a.axis + 1
    name = writer.add(node, "Gather", [*node.inputs, writer.integers(node, a.indices)], axis=axis)
    writer.add(node, "Reshape", [name, writer.integers(node, [0, *node.output.shape])], last=True)


def pad(writer: Writer, node: Node) -> None:
    assert isinstance(node.attributes, Padding)
    a = node.attributes
    widths = writer.integers(node, [0, *a.begin, 0, *a.end])
    value = writer.constant(node, a.value, ARRAYS[node.output.dtype])
    writer.add(node, "Pad", [*node.inputs, widths, value], last=True, mode=a.mode.value)


EMITTERS: dict[Op, Emitter] = {
    Op.RESHAPE: reshape,
    Op.EXPAND: expand,
    Op.TRANSPOSE: transpose,
    Op.CONCAT: concat,
    Op.SLICE: cut,
    Op.GATHER: gather,
    Op.PAD: pad,
}
