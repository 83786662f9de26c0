"""Operators that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attributes import Axis, Indices, Order, Padding, PadMode, Ranges, Target
from ..op import Op
from .spec import Operator, Shape, ShapeError, Values, aligned, broadcast, feature_axis, product


def _reshape_shape(a: Target, shapes: Sequence[Shape]) -> Shape:
    if product(a.shape) != product(shapes[0]):
        raise ShapeError(f"{shapes[0]} has not as many elements as {a.shape}")
    return a.shape


def _expand_shape(a: Target, shapes: Sequence[Shape]) -> Shape:
    if broadcast([shapes[0], a.shape]) != a.shape:
        raise ShapeError(f"{shapes[0]} does not expand to {a.shape}")
    return a.shape


def _expand(a: Target, x: Values) -> Values:
    x, _ = aligned(x, np.empty((1, *a.shape)))
    return np.broadcast_to(x, (x.shape[0], *a.shape)).copy()


def _transpose_shape(a: Order, shapes: Sequence[Shape]) -> Shape:
    if sorted(a.order) != list(range(len(shapes[0]))):
        raise ShapeError(f"{a.order} is not an order of {len(shapes[0])} axes")
    return tuple(shapes[0][i] for i in a.order)


def _concat_shape(a: Axis, shapes: Sequence[Shape]) -> Shape:
    first = shapes[0]
    axis = feature_axis(a.axis, len(first))
    for shape in shapes:
        if len(shape) != len(first) or any(
            m != n for i, (m, n) in enumerate(zip(shape, first, strict=True)) if i != axis
        ):
            raise ShapeError(f"shapes {', '.join(map(str, shapes))} cannot be joined along axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _concat(a: Axis, *operands: Values) -> Values:
    rows = max(o.shape[0] for o in operands)
    wide = [np.broadcast_to(o, (rows, *o.shape[1:])) for o in operands]
    return np.concatenate(wide, axis=feature_axis(a.axis, operands[0].ndim - 1) + 1)


def _slice_shape(a: Ranges, shapes: Sequence[Shape]) -> Shape:
    (x,) = shapes
    if not len(x) == len(a.starts) == len(a.stops) == len(a.steps):
        raise ShapeError(f"a range per axis of {x} is needed")
    for start, stop, step, size in zip(a.starts, a.stops, a.steps, x, strict=True):
        if not (0 <= start <= stop <= size and step > 0):
            raise ShapeError(f"{start}:{stop}:{step} is not a range of {size} elements")
    return tuple(len(range(*bounds)) for bounds in zip(a.starts, a.stops, a.steps, strict=True))


def _slice(a: Ranges, x: Values) -> Values:
    ranges = [slice(*bounds) for bounds in zip(a.starts, a.stops, a.steps, strict=True)]
    return np.asarray(x[(slice(None), *ranges)])


def _gather_shape(a: Indices, shapes: Sequence[Shape]) -> Shape:
    (x,) = shapes
    axis = feature_axis(a.axis, len(x))
    if product(a.shape) != len(a.indices) or any(not 0 <= i < x[axis] for i in a.indices):
        raise ShapeError(f"indices outside of axis {axis} of {x}")
    return (*x[:axis], *a.shape, *x[axis + 1 :])


def _gather(a: Indices, x: Values) -> Values:
    positions = np.asarray(a.indices, dtype=np.int64).reshape(a.shape)
    return np.asarray(np.take(x, positions, axis=feature_axis(a.axis, x.ndim - 1) + 1))


def _pad_shape(a: Padding, shapes: Sequence[Shape]) -> Shape:
    (x,) = shapes
    if not len(x) == len(a.begin) == len(a.end):
        raise ShapeError(f"a padding per axis of {x} is needed")
    for size, begin, end in zip(x, a.begin, a.end, strict=True):
        reach = max(begin, end)
        if size + min(begin, 0) + min(end, 0) < 0:
            raise ShapeError(f"padding {begin} and {end} cuts off more than {size} elements")
        if (a.mode is PadMode.REFLECT and reach >= size) or (a.mode is not PadMode.CONSTANT and min(begin, end) < 0):
            raise ShapeError(f"padding {begin} and {end} is too much for {size} elements and mode {a.mode}")
    return tuple(n + b + e for n, b, e in zip(x, a.begin, a.end, strict=True))


def _pad(a: Padding, x: Values) -> Values:
    cut = [slice(max(0, -b), n - max(0, -e)) for n, b, e in zip(x.shape[1:], a.begin, a.end, strict=True)]
    inner = x[(slice(None), *cut)]
    widths = [(0, 0), *((max(0, b), max(0, e)) for b, e in zip(a.begin, a.end, strict=True))]
    match a.mode:
        case PadMode.CONSTANT:
            return np.pad(inner, widths, constant_values=a.value)
        case PadMode.REFLECT:
            return np.pad(inner, widths, mode="reflect")
        case PadMode.EDGE:
            return np.pad(inner, widths, mode="edge")


TABLE: dict[Op, Operator[Any]] = {
    Op.RESHAPE: Operator(
        operands=("x",),
        attributes=Target,
        shape=_reshape_shape,
        evaluate=lambda a, x: x.reshape(x.shape[0], *a.shape),
    ),
    Op.EXPAND: Operator(operands=("x",), attributes=Target, shape=_expand_shape, evaluate=_expand),
    Op.TRANSPOSE: Operator(
        operands=("x",),
        attributes=Order,
        shape=_transpose_shape,
        evaluate=lambda a, x: x.transpose(0, *(i + 1 for i in a.order)),
    ),
    Op.CONCAT: Operator(operands=(), variadic=True, attributes=Axis, shape=_concat_shape, evaluate=_concat),
    Op.SLICE: Operator(operands=("x",), attributes=Ranges, shape=_slice_shape, evaluate=_slice),
    Op.GATHER: Operator(operands=("x",), attributes=Indices, shape=_gather_shape, evaluate=_gather),
    Op.PAD: Operator(operands=("x",), attributes=Padding, shape=_pad_shape, evaluate=_pad),
}
"""RESHAPE keeps the elements in row-major order, and so stands for flatten, squeeze and unsqueeze."""
