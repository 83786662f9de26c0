"""A dense ReLU network as a chain of affine layers in float64, each number with a bound on its own rounding error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.attributes import Epsilon
from ..ir.graph import Graph, Node, Op, Tensor

Values = NDArray[np.float64]

UNIT = 2.0**-53
"""Unit roundoff of float64."""
TINY = 1e-290
"""Absorbs whatever underflows in float64."""
NORM_ROUNDINGS = 12
"""Most roundings that any usual order of evaluating a batch normalisation applies to one term."""


class NotAChain(Exception):
    """The graph is not a chain of matrices and ReLUs; the message is part of a sentence."""


def gamma(count: int) -> float:
    """Bound on the relative error of `count` float64 roundings, with a margin of two for evaluating bounds themselves.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, lemma 3.1: n u / (1 - n u).
    """
    return 2.0 * (count + 4) * UNIT


@dataclass(frozen=True, kw_only=True)
class Layer:
    """z = a W + b in real numbers: |W - weight| <= weight_radius, |b - bias| <= bias_radius, elementwise.

    weight [in, out], bias [out]. The source computes it in float32 as several operators in some order; every such
    evaluation errs by at most gamma_n(roundings) (|a| weight_size + bias_size) with unit roundoff 2^-24.
    """

    weight: Values
    weight_radius: Values
    bias: Values
    bias_radius: Values
    weight_size: Values
    bias_size: Values
    roundings: int


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Layers with a ReLU between each two, and after the last one where `last_relu`."""

    layers: tuple[Layer, ...]
    last_relu: bool

    @property
    def inputs(self) -> int:
        return int(self.layers[0].weight.shape[0])

    @property
    def outputs(self) -> int:
        return int(self.layers[-1].weight.shape[1])

    @property
    def macs(self) -> int:
        return sum(layer.weight.size for layer in self.layers)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of each layer but the last one."""
        return tuple(int(layer.weight.shape[1]) for layer in self.layers[:-1])


@dataclass(frozen=True, kw_only=True)
class Line:
    """An elementwise a x + b over a flat tensor, with the magnitudes that occur on the way."""

    scale: Values
    scale_radius: Values
    shift: Values
    shift_radius: Values
    shift_size: Values
    roundings: int


def read_chain(graph: Graph) -> Chain:
    """The graph as a chain: batch norms and elementwise affine maps folded, reshapes dropped.

    Raises NotAChain naming the operator that does not fit.
    """
    layers: list[Layer] = []
    current: Layer | None = None
    expected, known = graph.input.name, graph.tensors
    for node in graph.nodes:
        if node.inputs != (expected,):
            raise NotAChain(f"{node.output.name} does not read the operator before it")
        expected = node.output.name
        if node.op is Op.RELU:
            if current is None:
                raise NotAChain("it starts with a ReLU")
            layers.append(current)
            current = None
        elif node.op is Op.GEMM:
            matrix = _matrix(node)
            current = matrix if current is None else _composed(current, matrix)
        elif node.op is not Op.RESHAPE:
            line = read_line(node, known[node.inputs[0]])
            current = _scaled(current if current is not None else _identity(node.output.size), line)
    if expected != graph.output.name or not (layers or current):
        raise NotAChain("it has no matrix")
    return Chain(layers=(*layers, *([current] if current else [])), last_relu=current is None)


def _matrix(node: Node) -> Layer:
    if not {"weight", "bias"} <= node.constants.keys():
        raise NotAChain(f"the weights of {node.output.name} are computed")
    weight, bias = (node.constants[name].astype(np.float64) for name in ("weight", "bias"))
    if node.output.size != bias.size:
        raise NotAChain(f"{node.output.name} applies its matrix at several positions")
    return Layer(
        weight=weight,
        weight_radius=np.zeros_like(weight),
        bias=bias,
        bias_radius=np.zeros_like(bias),
        weight_size=np.abs(weight),
        bias_size=np.abs(bias),
        roundings=weight.shape[0] + 2,
    )


def _identity(size: int) -> Layer:
    eye, zeros = np.eye(size), np.zeros(size)
    return Layer(
        weight=eye,
        weight_radius=np.zeros_like(eye),
        bias=zeros,
        bias_radius=zeros,
        weight_size=eye,
        bias_size=zeros,
        roundings=0,
    )


def read_line(node: Node, source: Tensor) -> Line:
    """An elementwise affine operator.

    Raises NotAChain where it is none.
    """
    shape = node.output.shape
    if node.output.size != source.size:
        raise NotAChain(f"{node.op} {node.output.name} changes the size")
    if node.op is Op.BATCH_NORM and len(node.constants) == 4 and isinstance(node.attributes, Epsilon):
        wide = (-1, *(1,) * (len(shape) - 1))
        c = {k: np.broadcast_to(v.astype(np.float64).reshape(wide), shape).ravel() for k, v in node.constants.items()}
        scale = c["gamma"] / np.sqrt(c["variance"] + node.attributes.epsilon)
        size = np.abs(c["beta"]) + np.abs(c["mean"] * scale)
        return Line(
            scale=scale,
            scale_radius=np.abs(scale) * gamma(4) + TINY,
            shift=c["beta"] - c["mean"] * scale,
            shift_radius=size * gamma(8) + TINY,
            shift_size=size,
            roundings=NORM_ROUNDINGS,
        )
    if node.op not in (Op.ADD, Op.SUB, Op.MUL, Op.DIV) or len(node.constants) != 1:
        raise NotAChain(f"{node.source or node.op} is neither affine nor a ReLU")
    ((side, constant),) = node.constants.items()
    return _arithmetic(node, side, np.broadcast_to(constant.astype(np.float64), shape).ravel())


def _arithmetic(node: Node, side: str, value: Values) -> Line:
    one, zero = np.ones_like(value), np.zeros_like(value)
    scale, radius, shift = one, zero, zero
    if node.op is Op.ADD:
        shift = value
    elif node.op is Op.SUB:
        scale, shift = (-one, value) if side == "a" else (one, -value)
    elif node.op is Op.MUL:
        scale = value
    elif side == "b" and bool((value != 0).all()):
        scale = 1.0 / value
        radius = np.abs(scale) * gamma(1) + TINY
    else:
        raise NotAChain(f"{node.output.name} divides by what flows, or by zero")
    return Line(scale=scale, scale_radius=radius, shift=shift, shift_radius=zero, shift_size=np.abs(shift), roundings=2)


def _scaled(layer: Layer, line: Line) -> Layer:
    """The layer followed by an elementwise affine map."""
    size = np.abs(line.scale) + line.scale_radius

    def radius(value: Values, own: Values) -> Values:
        return np.asarray(own * size + np.abs(value) * line.scale_radius + np.abs(value * line.scale) * gamma(2) + TINY)

    exact = bool((line.scale == 1).all() and (line.scale_radius == 0).all())
    shifted = layer.bias_size * size + line.shift_size
    return Layer(
        weight=layer.weight * line.scale,
        weight_radius=layer.weight_radius if exact else radius(layer.weight, layer.weight_radius),
        bias=layer.bias * line.scale + line.shift,
        bias_radius=radius(layer.bias, layer.bias_radius) + line.shift_radius + shifted * gamma(2),
        weight_size=layer.weight_size * size,
        bias_size=shifted,
        roundings=layer.roundings + line.roundings,
    )


def _composed(first: Layer, second: Layer) -> Layer:
    """Two layers without a ReLU between them as one."""
    weight, weight_radius = interval_product(first.weight, first.weight_radius, second.weight, second.weight_radius)
    bias, bias_radius = interval_product(first.bias[None], first.bias_radius[None], second.weight, second.weight_radius)
    size = np.abs(second.weight) + second.weight_radius
    shifted = first.bias_size @ size + second.bias_size
    return Layer(
        weight=weight,
        weight_radius=weight_radius,
        bias=bias[0] + second.bias,
        bias_radius=bias_radius[0] + second.bias_radius + shifted * gamma(2),
        weight_size=first.weight_size @ np.maximum(size, second.weight_size),
        bias_size=first.bias_size @ np.maximum(size, second.weight_size) + second.bias_size,
        roundings=first.roundings + second.roundings,
    )


def interval_product(a: Values, a_radius: Values, b: Values, b_radius: Values) -> tuple[Values, Values]:
    """(centre, radius) of a product of matrices that are known up to a radius, rounding included.

    Rump, Fast and parallel interval arithmetic, BIT 39 (1999): |ab - centre| <= |a| rb + ra (|b| + rb) + rounding.
    """
    size = np.abs(b)
    spread = np.abs(a) @ b_radius + a_radius @ (size + b_radius)
    return a @ b, spread * (1 + gamma(a.shape[-1])) + np.abs(a) @ size * gamma(a.shape[-1]) + TINY * (a.shape[-1] + 1)
