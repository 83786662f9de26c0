"""What a unit is, and how much the network reads it: for every operator of the graph.

A unit is an index along one axis of a tensor: a channel of an image (axis 0), a feature of a vector or of a sequence
(the last axis). Positions in space or time are samples of the same unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..ir.graph import Graph, Node, Op, Tensor
from ..ir.op import DType

Weights = NDArray[np.float64]
CHANNELS_FIRST = frozenset({Op.CONV, Op.MAX_POOL, Op.AVERAGE_POOL, Op.BATCH_NORM})
ACTIVATIONS = frozenset(
    {
        Op.RELU,
        Op.LEAKY_RELU,
        Op.SIGMOID,
        Op.TANH,
        Op.GELU,
        Op.SILU,
        Op.HARD_SIGMOID,
        Op.HARD_SWISH,
        Op.CLIP,
        Op.SOFTMAX,
    }
)
MOVEMENT = frozenset({Op.RESHAPE, Op.EXPAND, Op.TRANSPOSE, Op.CONCAT, Op.SLICE, Op.GATHER, Op.PAD, Op.CAST})
"""They compute nothing: what they move is reported where it was made."""
WEIGHTLESS = frozenset(
    ACTIVATIONS
    | {Op.NEG, Op.ABS, Op.SQRT, Op.EXP, Op.LOG, Op.ERF, Op.MAX_POOL, Op.AVERAGE_POOL}
    | {Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.POW, Op.MINIMUM, Op.MAXIMUM, Op.WHERE}
)
"""Who reads through them reads the unit; their operands of the same shape keep their units."""


def unit_axes(graph: Graph) -> dict[str, int]:
    """Axis of the units of each tensor, counted from 0; 0 for tensors without axes."""
    axes = {graph.input.name: 0 if len(graph.input.shape) >= 3 else max(0, len(graph.input.shape) - 1)}
    known = graph.tensors
    for node in graph.nodes:
        axes[node.output.name] = _axis(node, known, axes)
    return axes


def _axis(node: Node, known: Mapping[str, Tensor], axes: Mapping[str, int]) -> int:
    rank = len(node.output.shape)
    if node.op in CHANNELS_FIRST:
        return 0
    if node.op is Op.TRANSPOSE:
        order: tuple[int, ...] = getattr(node.attributes, "order")  # noqa: B009  # of `Order`, as the table says
        return order.index(axes[node.inputs[0]])
    for name in node.inputs:
        if node.op in WEIGHTLESS and known[name].shape == node.output.shape:
            return axes[name]
    return max(0, rank - 1)


def layers(graph: Graph) -> tuple[Node, ...]:
    """Nodes whose outputs are reported: all that compute float32, but for those that only an activation reads.

    The output of the graph counts where it is an activation: before it, it is the answer and not a unit.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def reported(node: Node) -> bool:
        if node.op in MOVEMENT or node.op is Op.OPAQUE or node.output.dtype is not DType.FLOAT32:
            return False
        if node.op in ACTIVATIONS:
            return True
        found = readers.get(node.output.name, [])
        return bool(found) and not all(reader.op in ACTIVATIONS for reader in found)

    return tuple(node for node in graph.nodes if reported(node))


def influence(graph: Graph, axes: Mapping[str, int]) -> dict[str, Weights]:
    """Per unit of each tensor, the norm of the weights that read it, through operators that have no weights.

    The root of the sum of squares over all readers; 1 per reader without weights whose units are not these.
    """
    known = graph.tensors
    squares = {name: np.zeros(_count(tensor, axes[name])) for name, tensor in known.items()}
    squares[graph.output.name] += 1.0
    for node in reversed(graph.nodes):
        for name in node.inputs:
            squares[name] += _read(node, known[name], axes, np.sqrt(squares[node.output.name])) ** 2
    return {name: np.sqrt(values) for name, values in squares.items()}


def _read(node: Node, source: Tensor, axes: Mapping[str, int], after: Weights) -> Weights:
    """Norm per unit of `source` of what `node` reads it with; `after`: the same for the node's output."""
    axis, shape = axes[source.name], source.shape
    count = _count(source, axis)
    last = axis == len(shape) - 1
    weight = next((node.constants[k].astype(np.float64) for k in ("weight", "b") if k in node.constants), None)
    if weight is not None and node.op is Op.GEMM and last:
        return np.asarray(np.linalg.norm(weight, axis=1))
    if weight is not None and node.op is Op.MATMUL and last and weight.ndim == 2:
        return np.asarray(np.linalg.norm(weight, axis=1))
    if weight is not None and node.op is Op.CONV and axis == 0:
        return _grouped(weight, count)
    if node.op in (Op.LSTM, Op.GRU) and last and node.inputs[0] == source.name:
        return np.ones(count) if weight is None else np.asarray(np.linalg.norm(weight.reshape(-1, count), axis=0))
    if node.op in WEIGHTLESS and len(after) == count and axes[node.output.name] == axis:
        return after
    if node.op is Op.RESHAPE and len(after) > count and len(after) == source.size:
        rows = np.moveaxis(after.reshape(shape), axis, 0).reshape(count, -1)
        return np.asarray(np.linalg.norm(rows, axis=1))
    if node.op is Op.TRANSPOSE and len(after) == count:
        return after
    return np.ones(count)


def _grouped(weight: Weights, channels: int) -> Weights:
    """Norm per input channel of a kernel [outputs, channels / groups, *window]."""
    groups = channels // weight.shape[1]
    parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray(np.sqrt((parts**2).sum(axis=(1, 3))).reshape(-1))


def _count(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis] if tensor.shape else 1
