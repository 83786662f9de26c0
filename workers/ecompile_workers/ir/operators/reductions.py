"""Softmax and reductions over axes of the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..attributes import Axis, Reduction
from ..op import Op
from .spec import Operator, Shape, Values, array_axis, feature_axis


def _softmax_shape(a: Axis, shapes: Sequence[Shape]) -> Shape:
    feature_axis(a.axis, len(shapes[0]))
    return shapes[0]


def softmax(a: Axis, x: Values) -> Values:
    """e^(x - max) over its sum."""
    axis = array_axis(a.axis)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _reduced_shape(a: Reduction, shapes: Sequence[Shape]) -> Shape:
    axes = {feature_axis(axis, len(shapes[0])) for axis in a.axes}
    if a.keep:
        return tuple(1 if i in axes else n for i, n in enumerate(shapes[0]))
    return tuple(n for i, n in enumerate(shapes[0]) if i not in axes)


def _reduction(function: Callable[..., Any]) -> Operator[Reduction]:
    def evaluate(a: Reduction, x: Values) -> Values:
        return np.asarray(function(x, axis=tuple(array_axis(axis) for axis in a.axes), keepdims=a.keep))

    return Operator(operands=("x",), attributes=Reduction, shape=_reduced_shape, evaluate=evaluate)


TABLE: dict[Op, Operator[Any]] = {
    Op.SOFTMAX: Operator(operands=("x",), attributes=Axis, shape=_softmax_shape, evaluate=softmax),
    Op.REDUCE_MEAN: _reduction(np.mean),
    Op.REDUCE_SUM: _reduction(np.sum),
    Op.REDUCE_MAX: _reduction(np.max),
    Op.REDUCE_MIN: _reduction(np.min),
}
