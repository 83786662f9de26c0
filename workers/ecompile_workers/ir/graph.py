"""The typed graph that everything else reads. Frozen; the batch dimension is symbolic and left out of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .attributes import NOTHING, Attributes
from .op import DType, Op
from .operators import OPERATORS, ShapeError
from .operators.spec import product

__all__ = ["Array", "Attributes", "DType", "Graph", "Node", "Op", "Tensor", "problems"]

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value that flows: its name in the source and its shape without the batch dimension."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = DType.FLOAT32
    internal: bool = False
    """Made by an importer: the source has no tensor of this name and layout, so nothing can be cut here."""

    @property
    def size(self) -> int:
        """Elements per row."""
        return product(self.shape)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator. `OPERATORS[op].operands` says which operands there are: constants are named, the others flow."""

    op: Op
    inputs: tuple[str, ...]
    """Names of the operands that flow, in order."""
    output: Tensor
    constants: Mapping[str, Array] = field(default_factory=dict)
    """Operands that are known, by name, without a batch dimension."""
    attributes: Attributes = NOTHING
    source: str = ""
    """Name of the operator in the source format."""

    def __post_init__(self) -> None:
        if self.op is not Op.OPAQUE and self.attributes is NOTHING:
            # Raises TypeError where an operator's settings have no default.
            object.__setattr__(self, "attributes", OPERATORS[self.op].attributes())

    @property
    def operands(self) -> tuple[str | Array, ...]:
        """All operands in the table's order: a name where it flows, an array where it is constant.

        Raises ShapeError where the table does not allow them.
        """
        names = OPERATORS[self.op].names(len(self.inputs) + len(self.constants))
        missing = sorted(self.constants.keys() - set(names))
        if missing:
            raise ShapeError(f"takes {', '.join(names)}, not {missing[0]}")
        flowing = iter(self.inputs)
        return tuple(self.constants[name] if name in self.constants else next(flowing) for name in names)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in order of execution."""

    input: Tensor
    output: Tensor
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...] = ()
    """Where the source has several inputs: `input` is one float32 row of all of them, flattened, in this order."""
    outputs: tuple[Tensor, ...] = ()
    """Where the source has several outputs: `output` is one row of all of them, flattened, in this order."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that flows, by name."""
        return {self.input.name: self.input, **{node.output.name: node.output for node in self.nodes}}

    @property
    def integers(self) -> tuple[slice, ...]:
        """Columns of input rows [rows, features] that hold integers (numbers of words) or truth values."""
        found, start = [], 0
        for tensor in self.inputs or (self.input,):
            if tensor.dtype is not DType.FLOAT32:
                found.append(slice(start, start + tensor.size))
            start += tensor.size
        return tuple(found)

    @property
    def macs(self) -> int:
        """Multiply-adds per row, of matrix products, convolutions and recurrent layers."""
        known = self.tensors
        total = 0
        for node in self.nodes:
            if node.op is not Op.OPAQUE:
                shapes = [known[o].shape if isinstance(o, str) else o.shape for o in node.operands]
                total += OPERATORS[node.op].macs(node.attributes, shapes, node.output.shape)
        return total

    @property
    def opaque_operators(self) -> tuple[str, ...]:
        """Names of unknown operators, sorted, each once."""
        return tuple(sorted({n.source for n in self.nodes if n.op is Op.OPAQUE}))


def inferred(node: Node, known: Mapping[str, Tensor]) -> tuple[tuple[int, ...], DType]:
    """Shape and element type of a node's output by the table.

    Raises ShapeError where the operands do not fit, KeyError where one is not known.
    """
    operator = OPERATORS[node.op]
    if type(node.attributes) is not operator.attributes:
        raise ShapeError(f"has settings {type(node.attributes).__name__}, not {operator.attributes.__name__}")
    operands = [known[o] if isinstance(o, str) else o for o in node.operands]
    dtypes = [o.dtype if isinstance(o, Tensor) else None for o in operands]
    shape = operator.shape(node.attributes, [o.shape for o in operands])
    return shape, operator.dtype(node.attributes, dtypes)


def problems(graph: Graph) -> list[str]:
    """What is not legal about a graph; empty where all is well. Checked after import and between passes."""
    found = []
    known = {graph.input.name: graph.input}
    for node in graph.nodes:
        name = node.output.name
        undefined = [i for i in node.inputs if i not in known]
        found += [f"{name}: input {i} is not defined before" for i in undefined]
        if name in known:
            found.append(f"{name}: defined twice")
        if node.op is not Op.OPAQUE and not undefined:
            try:
                expected = inferred(node, known)
                if expected != (node.output.shape, node.output.dtype):
                    found.append(f"{name}: {node.op} gives {expected[0]} {expected[1]}, not {node.output.shape}")
            except ShapeError as error:
                found.append(f"{name}: {node.op}: {error}")
        known[name] = node.output
    if known.get(graph.output.name) != graph.output:
        found.append(f"the output {graph.output.name} is not computed")
    return found
