"""Normalisations with given or computed statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attributes import Epsilon, LastAxes
from ..op import Op
from .spec import Operator, Shape, ShapeError, Values


def _batch_norm_shape(a: Epsilon, shapes: Sequence[Shape]) -> Shape:
    x, *parameters = shapes
    if not x or any(p != x[:1] for p in parameters):
        raise ShapeError(f"input {x} and parameters {parameters} do not fit")
    return x


def _batch_norm(a: Epsilon, x: Values, gamma: Values, beta: Values, mean: Values, variance: Values) -> Values:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, per channel (the first axis of the features)."""
    wide = (1, x.shape[1], *(1,) * (x.ndim - 2))
    scale = gamma / np.sqrt(variance + a.epsilon)
    return np.asarray((x - mean.reshape(wide)) * scale.reshape(wide) + beta.reshape(wide))


def _last_axes_shape(a: LastAxes, shapes: Sequence[Shape]) -> Shape:
    x, *parameters = shapes
    if not 1 <= a.count <= len(x) or any(p != x[len(x) - a.count :] for p in parameters):
        raise ShapeError(f"input {x} and parameters {parameters} do not fit")
    return x


def _layer_norm(a: LastAxes, x: Values, gamma: Values, beta: Values) -> Values:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta over the last axes (Ba and others, arXiv:1607.06450)."""
    axes = tuple(range(-a.count, 0))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred**2).mean(axis=axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + a.epsilon) * gamma[0] + beta[0])


def _rms_norm(a: LastAxes, x: Values, gamma: Values) -> Values:
    """x / sqrt(mean(x^2) + epsilon) * gamma over the last axes (Zhang and Sennrich, arXiv:1910.07467)."""
    power = (x**2).mean(axis=tuple(range(-a.count, 0)), keepdims=True)
    return np.asarray(x / np.sqrt(power + a.epsilon) * gamma[0])


TABLE: dict[Op, Operator[Any]] = {
    Op.BATCH_NORM: Operator(
        operands=("x", "gamma", "beta", "mean", "variance"),
        attributes=Epsilon,
        shape=_batch_norm_shape,
        evaluate=_batch_norm,
    ),
    Op.LAYER_NORM: Operator(
        operands=("x", "gamma", "beta"), attributes=LastAxes, shape=_last_axes_shape, evaluate=_layer_norm
    ),
    Op.RMS_NORM: Operator(operands=("x", "gamma"), attributes=LastAxes, shape=_last_axes_shape, evaluate=_rms_norm),
}
