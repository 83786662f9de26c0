"""Convolution and pooling over any number of spatial dimensions; channels come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..attributes import Convolution, Pool
from ..op import Op
from .spec import Operator, Shape, ShapeError, Values, product


def window_count(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, *, ceil: bool) -> int:
    """How many windows fit into a padded dimension.

    With `ceil`, one more may reach past the end, if it starts in the input or the padding before it (the rule of
    PyTorch's pooling_output_shape, which ONNX follows).
    """
    room = size + begin + end - dilation * (kernel - 1) - 1
    if min(kernel, stride, dilation) < 1 or (room < 0 and not (ceil and room > -stride)):
        raise ShapeError(f"a kernel of {kernel} with dilation {dilation} does not fit {size} elements")
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + begin else count


def _spatial(sizes: Shape, kernel: Shape, a: Convolution | Pool, *, ceil: bool = False) -> Shape:
    lists = (kernel, a.strides, a.dilations, a.begin, a.end)
    if any(len(each) != len(sizes) for each in lists):
        raise ShapeError(f"kernel, strides, dilations and padding are not all for {len(sizes)} dimensions")
    return tuple(window_count(n, k, s, d, b, e, ceil=ceil) for n, k, s, d, b, e in zip(sizes, *lists, strict=True))


def _windows(x: Values, kernel: Shape, a: Convolution | Pool) -> Values:
    """[rows, channels, *spatial] -> [rows, channels, *windows, *kernel], a view."""
    count = len(kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, a.dilations, strict=True)]
    view = sliding_window_view(x, spans, axis=tuple(range(2, 2 + count)))
    steps = [slice(None, None, step) for step in (*a.strides, *a.dilations)]
    return np.asarray(view[(slice(None), slice(None), *steps)])


def _padded(x: Values, a: Convolution | Pool, end: Sequence[int], value: float) -> Values:
    return np.pad(x, [(0, 0), (0, 0), *zip(a.begin, end, strict=True)], constant_values=value)


def _conv_shape(a: Convolution, shapes: Sequence[Shape]) -> Shape:
    x, weight, bias = shapes
    if len(x) < 2 or len(weight) != len(x) + 1:
        raise ShapeError(f"input {x} and kernel {weight} do not fit")
    if a.groups < 1 or x[0] != weight[1] * a.groups or weight[0] % a.groups or bias != weight[:1]:
        raise ShapeError(f"input {x}, kernel {weight}, bias {bias} and {a.groups} groups do not fit")
    return (weight[0], *_spatial(x[1:], weight[2:], a))


def _conv(a: Convolution, x: Values, weight: Values, bias: Values) -> Values:
    """Cross-correlation: x [rows, channels, *spatial], weight [outputs, channels / groups, *kernel]."""
    outputs, inner, *kernel = weight.shape[1:]
    view = _windows(_padded(x, a, a.end, 0.0), tuple(kernel), a)
    rows, spatial = view.shape[0], view.shape[2 : 2 + len(kernel)]
    columns = view.reshape(rows, a.groups, inner, product(spatial), product(kernel))
    matrix = weight[0].reshape(a.groups, outputs // a.groups, inner, product(kernel))
    y = np.einsum("rgcpk,gock->rgop", columns, matrix, optimize=True).reshape(rows, outputs, *spatial)
    return np.asarray(y + bias.reshape(outputs, *(1,) * len(spatial)))


def _conv_macs(a: Convolution, shapes: Sequence[Shape], output: Shape) -> int:
    return product(output) * product(shapes[1][1:])


def _pool_shape(a: Pool, shapes: Sequence[Shape]) -> Shape:
    (x,) = shapes
    if len(x) < 2:
        raise ShapeError(f"pooling takes channels and space, not {x}")
    return (x[0], *_spatial(x[1:], a.kernel, a, ceil=a.ceil))


def _overhang(x: Values, a: Pool) -> list[int]:
    """Per dimension, how far the last window reaches past the padding."""
    windows = _spatial(x.shape[2:], a.kernel, a, ceil=a.ceil)
    lists = (windows, a.kernel, a.strides, a.dilations, x.shape[2:], a.begin, a.end)
    return [max(0, (w - 1) * s + (k - 1) * d + 1 - (n + b + e)) for w, k, s, d, n, b, e in zip(*lists, strict=True)]


def _pooled(x: Values, a: Pool, value: float) -> Values:
    end = [e + o for e, o in zip(a.end, _overhang(x, a), strict=True)]
    return _windows(_padded(x, a, end, value), a.kernel, a)


def _max_pool(a: Pool, x: Values) -> Values:
    return np.asarray(_pooled(x, a, -np.inf).max(axis=tuple(range(-len(a.kernel), 0))))


def _average_pool(a: Pool, x: Values) -> Values:
    axes = tuple(range(-len(a.kernel), 0))
    counted = np.ones((1, 1, *x.shape[2:]))
    if a.count_padding:
        counted = _padded(counted, a, a.end, 1.0)
        end = _overhang(x, a)
        counted = np.pad(counted, [(0, 0), (0, 0), *((0, o) for o in end)])
        counts = _windows(counted, a.kernel, a).sum(axis=axes)
    else:
        counts = _pooled(counted, a, 0.0).sum(axis=axes)
    return np.asarray(_pooled(x, a, 0.0).sum(axis=axes) / counts)


TABLE: dict[Op, Operator[Any]] = {
    Op.CONV: Operator(
        operands=("x", "weight", "bias"),
        attributes=Convolution,
        shape=_conv_shape,
        evaluate=_conv,
        macs=_conv_macs,
    ),
    Op.MAX_POOL: Operator(operands=("x",), attributes=Pool, shape=_pool_shape, evaluate=_max_pool),
    Op.AVERAGE_POOL: Operator(operands=("x",), attributes=Pool, shape=_pool_shape, evaluate=_average_pool),
}
