"""The typed graph that everything else reads. Float32; the batch dimension is symbolic and left out of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Op(StrEnum):
    """All operators. Each takes one tensor of the graph; everything else is constant."""

    GEMM = "gemm"
    """y = x W + b; x is flat, W is [inputs, outputs]."""
    AFFINE = "affine"
    """y = x * scale + shift, elementwise with broadcasting over the features."""
    BATCH_NORM = "batch_norm"
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, per feature."""
    RELU = "relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    """Over the last axis; features are flat."""
    RESHAPE = "reshape"
    """Same elements in the same order under another shape."""
    OPAQUE = "opaque"
    """Not known to us; `source` names the operator. Stays neural."""


ACTIVATIONS = frozenset({Op.RELU, Op.TANH, Op.SIGMOID, Op.SOFTMAX})


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value that flows: its name in the source and its shape without the batch dimension."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements per row."""
        return int(np.prod(self.shape, dtype=np.int64)) if self.shape else 1


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator."""

    op: Op
    inputs: tuple[str, ...]
    output: Tensor
    constants: Mapping[str, Array] = field(default_factory=dict)
    epsilon: float = 0.0
    source: str = ""
    """Name of the operator in the source format."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in order of execution."""

    input: Tensor
    output: Tensor
    nodes: tuple[Node, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds per row, counting matrices only."""
        return sum(int(n.constants["weight"].size) for n in self.nodes if n.op is Op.GEMM)

    @property
    def opaque_operators(self) -> tuple[str, ...]:
        """Names of unknown operators, sorted, each once."""
        return tuple(sorted({n.source for n in self.nodes if n.op is Op.OPAQUE}))


def problems(graph: Graph) -> list[str]:
    """What is not legal about a graph; empty where all is well. Checked after import and between passes."""
    found = []
    known = {graph.input.name: graph.input}
    for node in graph.nodes:
        found += [
            f"{node.output.name}: input {name} is not defined before" for name in node.inputs if name not in known
        ]
        if node.output.name in known:
            found.append(f"{node.output.name}: defined twice")
        if node.op is not Op.OPAQUE and len(node.inputs) != 1:
            found.append(f"{node.output.name}: {node.op} takes one tensor")
        if node.op is Op.GEMM and node.inputs[0] in known:
            weight, bias = node.constants["weight"], node.constants["bias"]
            if weight.shape != (known[node.inputs[0]].size, node.output.size) or bias.shape != (node.output.size,):
                found.append(f"{node.output.name}: weight {weight.shape} and bias {bias.shape} do not fit")
        known[node.output.name] = node.output
    if graph.output.name not in known:
        found.append(f"the output {graph.output.name} is not computed")
    return found
