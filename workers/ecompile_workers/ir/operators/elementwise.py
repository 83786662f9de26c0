"""Operators on single elements, with numpy's broadcasting between operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..attributes import Attributes, Bounds, Cast, Gelu, GeluForm, Line, Slope
from ..op import DType, Op
from .spec import Operator, Shape, Values, aligned, always, broadcast

_ERF = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Values) -> Values:
    return np.asarray(_ERF(x)) if x.size else x


def sigmoid(x: Values) -> Values:
    """1 / (1 + e^-x), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def gelu(a: Gelu, x: Values) -> Values:
    """x * Phi(x), or its approximation (Hendrycks and Gimpel, arXiv:1606.08415)."""
    if a.form is GeluForm.ERF:
        return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))))
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


def hard_sigmoid(a: Line, x: Values) -> Values:
    return np.asarray(np.clip(a.alpha * x + a.beta, 0.0, 1.0))


def cast(a: Cast, x: Values) -> Values:
    match a.to:
        case DType.FLOAT32:
            return x
        case DType.INT64:
            return np.trunc(x)
        case DType.BOOL:
            return np.asarray(x != 0, dtype=np.float64)


def clip(a: Bounds, x: Values) -> Values:
    """Not-a-number stays; where the bounds cross, the upper one holds."""
    return np.asarray(np.minimum(np.maximum(x, a.lower), a.upper))


def _same(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _broadcast(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    return broadcast(shapes)


def _unary(evaluate: Callable[[Any, Values], Values], attributes: type[Attributes] = Attributes) -> Operator[Any]:
    return Operator(operands=("x",), attributes=attributes, shape=_same, evaluate=evaluate)


def _binary(function: Callable[[Values, Values], Any], *, truth: bool = False) -> Operator[Attributes]:
    def evaluate(attributes: Attributes, a: Values, b: Values) -> Values:
        return np.asarray(function(*aligned(a, b)), dtype=np.float64)

    operands = ("a", "b")
    if truth:
        return Operator(
            operands=operands, attributes=Attributes, shape=_broadcast, evaluate=evaluate, dtype=always(DType.BOOL)
        )
    return Operator(operands=operands, attributes=Attributes, shape=_broadcast, evaluate=evaluate)


def _where(attributes: Attributes, condition: Values, a: Values, b: Values) -> Values:
    condition, a, b = aligned(condition, a, b)
    return np.asarray(np.where(condition != 0, a, b))


def _where_dtype(attributes: Attributes, dtypes: Sequence[DType | None]) -> DType:
    return next((d for d in dtypes[1:] if d is not None), DType.FLOAT32)


TABLE: dict[Op, Operator[Any]] = {
    Op.RELU: _unary(lambda a, x: np.maximum(x, 0.0)),
    Op.LEAKY_RELU: _unary(lambda a, x: np.where(x < 0, a.slope * x, x), Slope),
    Op.SIGMOID: _unary(lambda a, x: sigmoid(x)),
    Op.TANH: _unary(lambda a, x: np.tanh(x)),
    Op.GELU: _unary(gelu, Gelu),
    Op.SILU: _unary(lambda a, x: x * sigmoid(x)),
    Op.HARD_SIGMOID: _unary(hard_sigmoid, Line),
    Op.HARD_SWISH: _unary(lambda a, x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    Op.CLIP: _unary(clip, Bounds),
    Op.NEG: _unary(lambda a, x: -x),
    Op.ABS: _unary(lambda a, x: np.abs(x)),
    Op.SQRT: _unary(lambda a, x: np.sqrt(x)),
    Op.EXP: _unary(lambda a, x: np.exp(x)),
    Op.LOG: _unary(lambda a, x: np.log(x)),
    Op.ERF: _unary(lambda a, x: erf(x)),
    Op.NOT: _unary(lambda a, x: (x == 0).astype(np.float64)),
    Op.CAST: Operator(
        operands=("x",), attributes=Cast, shape=_same, evaluate=cast, dtype=lambda attributes, dtypes: attributes.to
    ),
    Op.ADD: _binary(np.add),
    Op.SUB: _binary(np.subtract),
    Op.MUL: _binary(np.multiply),
    Op.DIV: _binary(np.divide),
    Op.POW: _binary(np.power),
    Op.MINIMUM: _binary(np.minimum),
    Op.MAXIMUM: _binary(np.maximum),
    Op.EQUAL: _binary(np.equal, truth=True),
    Op.LESS: _binary(np.less, truth=True),
    Op.LESS_OR_EQUAL: _binary(np.less_equal, truth=True),
    Op.GREATER: _binary(np.greater, truth=True),
    Op.GREATER_OR_EQUAL: _binary(np.greater_equal, truth=True),
    Op.AND: _binary(np.logical_and, truth=True),
    Op.OR: _binary(np.logical_or, truth=True),
    Op.WHERE: Operator(
        operands=("condition", "a", "b"),
        attributes=Attributes,
        shape=_broadcast,
        evaluate=_where,
        dtype=_where_dtype,
    ),
}
