"""Writing a graph operator by operator. Shapes come from the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..ir.attributes import NOTHING, Attributes, Target
from ..ir.graph import Array, Graph, Node, Op, Tensor, inferred


class GraphWriter:
    """A graph in the making that replaces `segment`: from its input to a tensor of the shape of its output."""

    def __init__(self, segment: Graph, *, prefix: str) -> None:
        self._segment, self._prefix = segment, prefix
        self._source = segment.input
        self._known = {self._source.name: self._source}
        self._nodes: list[Node] = []

    def add(self, op: Op, *inputs: str, attributes: Attributes = NOTHING, **constants: NDArray[np.floating]) -> str:
        """Append an operator; returns the name of its output. Constants are rounded to float32."""
        name = f"{self._prefix}.{len(self._nodes)}"
        single: dict[str, Array] = {key: np.asarray(value, dtype=np.float32) for key, value in constants.items()}
        node = Node(op=op, inputs=inputs, output=self._source, constants=single, attributes=attributes)
        shape, dtype = inferred(node, self._known)
        node = replace(node, output=Tensor(name=name, shape=shape, dtype=dtype))
        self._known[name] = node.output
        self._nodes.append(node)
        return name

    def flat(self) -> str:
        """The input as a vector."""
        return self._shaped(self._source.name, (self._source.size,))

    def gemm(self, x: str, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> str:
        return self.add(Op.GEMM, x, weight=weight, bias=bias)

    def finish(self, output: str) -> Graph:
        """The graph whose output is that tensor, in the shape that is wanted."""
        name = self._shaped(output, self._segment.output.shape)
        return replace(self._segment, output=self._known[name], nodes=tuple(self._nodes))

    def _shaped(self, name: str, shape: tuple[int, ...]) -> str:
        if self._known[name].shape == shape:
            return name
        return self.add(Op.RESHAPE, name, attributes=Target(shape=shape))
