"""Operators of source programs that are several nodes of our graph. Both importers call these.

All raise Unsupported where our graph cannot express the use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attributes import Convolution, PadMode
from ..graph import Array, Op
from . import operations
from .builder import Builder
from .values import Flow, Unsupported, Value, fixed

ONE = fixed(np.float32(1))
ZERO = fixed(np.float32(0))
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""Klambauer et al., "Self-Normalizing Neural Networks", 2017; ONNX Selu."""


def scaled(builder: Builder, x: Flow, factor: float) -> Flow:
    return x if factor == 1.0 else builder.broadcast(Op.MUL, x, fixed(np.float32(factor)))


def elu(builder: Builder, x: Flow, *, alpha: float = 1.0, scale: float = 1.0, rate: float = 1.0) -> Flow:
    """scale (max(x, 0) + alpha (e^(rate min(x, 0)) - 1)): ELU; SELU with its scale; CELU with rate 1 / alpha."""
    low = scaled(builder, builder.broadcast(Op.MINIMUM, x, ZERO), rate)
    below = scaled(builder, builder.broadcast(Op.SUB, builder.emit(Op.EXP, [low]), ONE), alpha)
    return scaled(builder, builder.broadcast(Op.ADD, builder.emit(Op.RELU, [x]), below), scale)


def softplus(builder: Builder, x: Flow) -> Flow:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    small = builder.emit(Op.EXP, [builder.emit(Op.NEG, [builder.emit(Op.ABS, [x])])])
    rest = builder.emit(Op.LOG, [builder.broadcast(Op.ADD, small, ONE)])
    return builder.broadcast(Op.ADD, builder.emit(Op.RELU, [x]), rest)


def mish(builder: Builder, x: Flow) -> Flow:
    """x tanh(softplus(x))."""
    return builder.broadcast(Op.MUL, x, builder.emit(Op.TANH, [softplus(builder, x)]))


def softsign(builder: Builder, x: Flow) -> Flow:
    """x / (1 + |x|)."""
    return builder.broadcast(Op.DIV, x, builder.broadcast(Op.ADD, builder.emit(Op.ABS, [x]), ONE))


def prelu(builder: Builder, x: Flow, slope: Value) -> Flow:
    """max(x, 0) + slope * min(x, 0)."""
    negative = builder.broadcast(Op.MUL, builder.broadcast(Op.MINIMUM, x, ZERO), slope)
    return builder.broadcast(Op.ADD, builder.emit(Op.RELU, [x]), negative)


def log_softmax(builder: Builder, x: Flow, axis: int) -> Flow:
    """x - max - log(sum(e^(x - max))), which does not underflow."""
    shifted = builder.broadcast(Op.SUB, x, operations.reduce(builder, Op.REDUCE_MAX, x, [axis], keep=True))
    total = operations.reduce(builder, Op.REDUCE_SUM, builder.emit(Op.EXP, [shifted]), [axis], keep=True)
    return builder.broadcast(Op.SUB, shifted, builder.emit(Op.LOG, [total]))


def group_norm(builder: Builder, x: Flow, groups: int, gamma: Array | None, beta: Array | None, epsilon: float) -> Flow:
    """Each group of channels by itself; x [batch, channels, *space]. One group per channel: instance norm."""
    channels, *space = builder.plain(x).tensor.shape
    if groups < 1 or channels % groups:
        raise Unsupported(f"{channels} channels in {groups} groups")
    size = x.tensor.size // groups
    merged = builder.rearranged(x, [None, groups, size])
    normal = operations.layer_norm(builder, merged, np.ones(size, np.float32), None, 1, epsilon)
    y = builder.rearranged(normal, [None, channels, *space])
    for op, parameter in ((Op.MUL, gamma), (Op.ADD, beta)):
        if parameter is not None:
            y = builder.broadcast(op, y, fixed(parameter.reshape(channels, *(1,) * len(space))))
    return y


def repeated(builder: Builder, x: Flow, factors: Sequence[int]) -> Flow:
    """Each element `factors` times along the spatial axes: upsampling to the nearest; x [batch, channels, *space]."""
    channels, *space = builder.plain(x).tensor.shape
    if len(factors) != len(space) or any(factor < 1 for factor in factors):
        raise Unsupported("another number of axes, or makes them smaller")
    narrow = [n for size in space for n in (size, 1)]
    wide = [n for size, factor in zip(space, factors, strict=True) for n in (size, factor)]
    spread = builder.rearranged(x, [None, channels, *narrow])
    sizes = fixed(np.array([-1, channels, *wide], dtype=np.int64))
    joined = [size * factor for size, factor in zip(space, factors, strict=True)]
    return builder.rearranged(operations.expand(builder, spread, sizes), [None, channels, *joined])


def transposed_convolution(
    builder: Builder, x: Flow, kernel: Array, bias: Array | None, window: Convolution, extra: Sequence[int]
) -> Flow:
    """x [batch, channels, *space], kernel [channels, outputs / groups, *space]; `extra`: elements added at the ends
    (ONNX output_padding). As a convolution of x with zeros between its elements (Dumoulin and Visin, 2016).
    """
    channels, *space = builder.plain(x).tensor.shape
    groups, sizes = window.groups, kernel.shape[2:]
    if kernel.shape[0] != channels or channels % groups or len(sizes) != len(space) or len(extra) != len(space):
        raise Unsupported(f"a kernel of shape {kernel.shape} on {channels} channels")
    split = kernel.reshape(groups, channels // groups, *kernel.shape[1:]).swapaxes(1, 2)
    turned = split.reshape(-1, channels // groups, *sizes)
    outputs, plain = turned.shape[0], not any((*window.begin, *window.end, *extra))
    if groups == 1 and plain and sizes == window.strides and set(window.dilations) == {1}:
        return _tiles(builder, x, turned, bias, sizes)
    y = builder.rearranged(x, [None, channels, *(n for size in space for n in (size, 1))])
    ends = [0, 0, *(n for step in window.strides for n in (0, step - 1))]
    y = operations.pad(builder, y, [0] * len(ends), ends, PadMode.CONSTANT, 0.0)
    y = builder.rearranged(y, [None, channels, *(n * s for n, s in zip(space, window.strides, strict=True))])
    for axis, (size, step) in enumerate(zip(space, window.strides, strict=True), 2):
        y = operations.cut(builder, y, axis, 0, (size - 1) * step + 1)
    reach = [d * (k - 1) for d, k in zip(window.dilations, sizes, strict=True)]
    begin = [far - n for far, n in zip(reach, window.begin, strict=True)]
    end = [far - n + more for far, n, more in zip(reach, window.end, extra, strict=True)]
    if min(*begin, *end) < 0:
        raise Unsupported("cuts off more than the kernel reaches")
    flipped = np.ascontiguousarray(np.flip(turned, axis=tuple(range(2, turned.ndim))))
    ones = (1,) * len(space)
    dense = Convolution(strides=ones, dilations=window.dilations, begin=tuple(begin), end=tuple(end), groups=groups)
    assert flipped.shape[0] == outputs
    return operations.convolution(builder, y, flipped, bias, dense)


def _tiles(builder: Builder, x: Flow, kernel: Array, bias: Array | None, sizes: Sequence[int]) -> Flow:
    """Kernels that do not overlap: a product per element, laid out as tiles; kernel [outputs, channels, *sizes]."""
    outputs, channels = kernel.shape[:2]
    space, count = x.tensor.shape[1:], len(sizes)
    ones, zeros = (1,) * count, (0,) * count
    flat = np.ascontiguousarray(np.moveaxis(kernel, 1, -1)).reshape(-1, channels, *ones)
    wide = None if bias is None else np.repeat(bias, flat.shape[0] // outputs)
    y = operations.convolution(
        builder, x, flat, wide, Convolution(strides=ones, dilations=ones, begin=zeros, end=zeros, groups=1)
    )
    y = builder.rearranged(y, [None, outputs, *sizes, *space])
    order = [0, 1, *(axis for i in range(count) for axis in (2 + count + i, 2 + i))]
    joined = [n * k for n, k in zip(space, sizes, strict=True)]
    return builder.rearranged(builder.transpose(y, order), [None, outputs, *joined])
