"""Nodes and initializers of an ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper

from ..graph import DType, Graph, Node

TYPES: dict[DType, int] = {
    DType.FLOAT32: onnx.TensorProto.FLOAT,
    DType.INT64: onnx.TensorProto.INT64,
    DType.BOOL: onnx.TensorProto.BOOL,
}
ARRAYS: dict[DType, DTypeLike] = {DType.FLOAT32: np.float32, DType.INT64: np.int64, DType.BOOL: np.bool_}


class Writer:
    """Collects what emitters add. Names that they make differ from those of the graph's tensors."""

    def __init__(self, graph: Graph) -> None:
        self.tensors = graph.tensors
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._used = set(self.tensors)

    def name(self, stem: str) -> str:
        count = 0
        while (found := f"{stem}/{count}") in self._used:
            count += 1
        self._used.add(found)
        return found

    def constant(self, node: Node, value: Any, dtype: DTypeLike = np.float32) -> str:
        name = self.name(node.output.name)
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def integers(self, node: Node, values: Sequence[int]) -> str:
        return self.constant(node, list(values), np.int64)

    def add(self, node: Node, op_type: str, inputs: Sequence[str], *, last: bool = False, **attributes: Any) -> str:
        """One ONNX node; `last` where its result is that of our node."""
        output = node.output.name if last else self.name(node.output.name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def many(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """One ONNX node with several results."""
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), **attributes))

    def operands(self, node: Node, dtype: DType = DType.FLOAT32) -> list[str]:
        """Names of the operands; constants become initializers of the element type `dtype`."""
        return [o if isinstance(o, str) else self.constant(node, o, ARRAYS[dtype]) for o in node.operands]

    def aligned(self, node: Node, operand: str, rank: int) -> str:
        """A tensor that flows, with axes of size 1 behind the batch so that it has `rank` feature axes."""
        missing = rank - len(self.tensors[operand].shape) if operand in self.tensors else 0
        if missing <= 0:
            return operand
        return self.add(node, "Unsqueeze", [operand, self.integers(node, range(1, 1 + missing))])

    def rows(self, node: Node, operand: str) -> str:
        """The batch size as a vector of one element."""
        return self.add(node, "Shape", [operand], start=0, end=1)

    def repeated(self, node: Node, constant: str, shape: Sequence[int], like: str) -> str:
        """A constant as [rows, *shape], with the rows of `like`."""
        sizes = [self.rows(node, like), self.integers(node, shape)]
        return self.add(node, "Expand", [constant, self.add(node, "Concat", sizes, axis=0)])


Emitter = Callable[[Writer, Node], None]
