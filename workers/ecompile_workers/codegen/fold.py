"""Rewrites before code is printed. Each takes a graph of known operators and returns one that computes the same.

Folding is done in float64 and rounded once, so it is not exact in float32; equivalence is measured afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.attributes import Epsilon
from ..ir.graph import ACTIVATIONS, Array, Graph, Node, Op

ELEMENTWISE = frozenset({Op.ADD, Op.SUB, Op.MUL})
"""Affine where one operand is constant."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """y = act(x W + b); `activation` is None for none."""

    weight: Array
    """[inputs, outputs]"""
    bias: Array
    activation: Op | None


@dataclass
class _Pending:
    """A layer in the making, float64."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def layers(graph: Graph) -> tuple[Layer, ...]:
    """The chain as matrix layers: affine maps and batch norms become part of a neighbouring matrix.

    Raises ValueError where an affine map stands where no matrix can take it in, or an operator is opaque.
    """
    found: list[Layer] = []
    scale: NDArray[np.float64] = np.ones(graph.input.size)
    shift: NDArray[np.float64] = np.zeros(graph.input.size)
    pending: _Pending | None = None
    for node in graph.nodes:
        if node.op is Op.RESHAPE:
            continue
        if node.op is Op.GEMM:
            if pending is not None:
                found.append(_finish(pending, None))
            weight = node.constants["weight"].astype(np.float64)
            bias = node.constants["bias"].astype(np.float64)
            pending = _Pending(scale[:, None] * weight, bias + shift @ weight)
            scale, shift = np.ones(weight.shape[1]), np.zeros(weight.shape[1])
        elif (line := _affine(node)) is not None:
            a, b = line
            if pending is not None:
                pending.weight, pending.bias = pending.weight * a, pending.bias * a + b
            else:
                scale, shift = scale * a, shift * a + b
        elif node.op in ACTIVATIONS:
            if pending is None:
                eye = np.eye(scale.size)
                pending = _Pending(scale[:, None] * eye, shift)
            found.append(_finish(pending, node.op))
            pending, scale, shift = None, np.ones(node.output.size), np.zeros(node.output.size)
        else:
            raise ValueError(f"{node.op} cannot be folded into a matrix layer")
    if pending is not None:
        found.append(_finish(pending, None))
    elif bool((scale != 1).any() or (shift != 0).any()):
        found.append(_finish(_Pending(np.diag(scale), shift), None))
    return tuple(found)


def _affine(node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(a, b) of an elementwise a x + b, flat; None for other operators."""
    if node.op is Op.BATCH_NORM:
        assert isinstance(node.attributes, Epsilon)
        c = {name: value.astype(np.float64) for name, value in node.constants.items()}
        a = c["gamma"] / np.sqrt(c["variance"] + node.attributes.epsilon)
        return a, c["beta"] - c["mean"] * a
    if node.op not in ELEMENTWISE or len(node.constants) != 1:
        return None
    ((side, value),) = node.constants.items()
    wide = np.broadcast_to(value.astype(np.float64), node.output.shape).reshape(-1)
    zero, one = np.zeros_like(wide), np.ones_like(wide)
    match node.op:
        case Op.ADD:
            return one, wide
        case Op.SUB:
            return (-one, wide) if side == "a" else (one, -wide)
        case Op.MUL:
            return wide, zero
        case _:
            return None


def _finish(pending: _Pending, activation: Op | None) -> Layer:
    return Layer(
        weight=np.ascontiguousarray(pending.weight, dtype=np.float32),
        bias=np.ascontiguousarray(pending.bias, dtype=np.float32),
        activation=activation,
    )
