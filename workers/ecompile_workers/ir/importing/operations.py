"""Operations of source programs, in axes of the source, as nodes of our graph. Both importers call these.

All raise Unsupported where our graph cannot express the use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..attributes import (
    Attention,
    Axis,
    Convolution,
    Epsilon,
    Indices,
    LastAxes,
    Padding,
    PadMode,
    Pool,
    Ranges,
    Reduction,
    Target,
)
from ..graph import Array, DType, Op
from ..operators.spec import product
from .builder import Builder
from .values import AnyArray, Constant, Flow, Unsupported, Value, fixed, float32, folded, weight


def linear(builder: Builder, x: Flow, matrix: Array, bias: Array | None) -> Flow:
    """x W + b on the last axis; matrix is [inputs, outputs]."""
    x.feature(-1)
    if matrix.ndim != 2:
        raise Unsupported(f"a matrix of shape {matrix.shape}")
    bias = np.zeros(matrix.shape[1], dtype=np.float32) if bias is None else bias.reshape(-1)
    if bias.size == 1 and matrix.shape[1] > 1:
        bias = np.full(matrix.shape[1], bias[0], dtype=np.float32)
    return builder.emit(Op.GEMM, [x, np.ascontiguousarray(matrix), bias])


def matmul(builder: Builder, a: Value, b: Value) -> Flow:
    """numpy's matmul; a constant matrix on the right is a linear layer."""
    if isinstance(a, Flow) and isinstance(b, Constant) and b.fixed.ndim == 2:
        return linear(builder, a, weight(b, "matrix"), None)
    operands: list[Flow | Array] = []
    widest = builder.common([v for v in (a, b) if isinstance(v, Flow)])
    if widest.rank - widest.batch < 3:
        raise Unsupported("multiplies matrices along the batch")
    for value in (a, b):
        if isinstance(value, Flow):
            operands.append(value)
        elif value.fixed.ndim < 2:
            raise Unsupported("multiplies by a vector")
        else:
            operands.append(builder.beside(value, widest, "matrix"))
    return builder.emit(Op.MATMUL, operands, like=widest)


def convolution(builder: Builder, x: Flow, kernel: Array, bias: Array | None, window: Convolution) -> Flow:
    """x [batch, channels, *space], kernel [outputs, channels / groups, *space]."""
    bias = np.zeros(kernel.shape[0], dtype=np.float32) if bias is None else bias
    return builder.emit(Op.CONV, [builder.plain(x), kernel, bias], window)


def pool(builder: Builder, op: Op, x: Flow, window: Pool) -> Flow:
    return builder.emit(op, [builder.plain(x)], window)


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(begin, end) such that the output has ceil(size / stride) elements (ONNX auto_pad, torch padding="same")."""
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (less, more) if upper else (more, less)


def batch_norm(builder: Builder, x: Flow, parameters: Sequence[Array], epsilon: float) -> Flow:
    """parameters: gamma, beta, mean, variance."""
    return builder.emit(Op.BATCH_NORM, [builder.plain(x), *parameters], Epsilon(epsilon=epsilon))


def layer_norm(builder: Builder, x: Flow, gamma: Array, beta: Array | None, count: int, epsilon: float) -> Flow:
    """Over the last `count` axes."""
    for axis in range(1, count + 1):
        x.feature(-axis)
    shape = x.tensor.shape[len(x.tensor.shape) - count :]
    beta = np.zeros(shape, dtype=np.float32) if beta is None else beta
    wide = [np.ascontiguousarray(np.broadcast_to(p, shape)) for p in (gamma, beta)]
    return builder.emit(Op.LAYER_NORM, [x, *wide], LastAxes(count=count, epsilon=epsilon))


def rms_norm(builder: Builder, x: Flow, gamma: Array | None, count: int, epsilon: float) -> Flow:
    """Over the last `count` axes."""
    for axis in range(1, count + 1):
        x.feature(-axis)
    shape = x.tensor.shape[len(x.tensor.shape) - count :]
    gamma = np.ones(shape, dtype=np.float32) if gamma is None else np.ascontiguousarray(np.broadcast_to(gamma, shape))
    return builder.emit(Op.RMS_NORM, [x, gamma], LastAxes(count=count, epsilon=epsilon))


def attention(
    builder: Builder, query: Flow, key: Flow, value: Flow, mask: Value | None, *, scale: float | None, causal: bool
) -> Flow:
    """softmax(scale Q K^T + mask) V; a mask of truth values says what is seen."""
    widest = builder.common([query, key, value])
    if widest.rank - widest.batch < 3:
        raise Unsupported("attends along the batch")
    operands: list[Flow | Array] = [query, key, value]
    if isinstance(mask, Constant):
        if mask.first.dtype == np.bool_:
            mask = folded(lambda m: np.where(m, np.float32(0), np.float32(-np.inf)), mask)
        operands.append(builder.beside(mask, widest, "mask"))
    elif mask is not None:
        if mask.tensor.dtype is DType.BOOL:
            mask = builder.broadcast(Op.WHERE, mask, fixed(np.float32(0)), fixed(np.float32(-np.inf)))
        builder.common([widest, mask])
        operands.append(mask)
    scale = query.tensor.shape[-1] ** -0.5 if scale is None else scale
    return builder.emit(Op.ATTENTION, operands, Attention(scale=scale, causal=causal), like=widest)


def softmax(builder: Builder, x: Flow, axis: int) -> Flow:
    return builder.emit(Op.SOFTMAX, [x], Axis(axis=x.feature(axis)))


def reduce(builder: Builder, op: Op, x: Flow, axes: Sequence[int], *, keep: bool) -> Flow:
    if not axes:
        raise Unsupported("reduces over the batch")
    places = [x.source_axis(a) for a in axes]
    y = builder.emit(op, [x], Reduction(axes=tuple(sorted(x.feature(a) for a in places)), keep=keep))
    return y if keep else replace(y, batch=x.batch - sum(1 for a in places if a < x.batch))


def cut(builder: Builder, x: Flow, axis: int, start: int, stop: int, step: int = 1) -> Flow:
    """x[start:stop:step] along one axis, with Python's rules."""
    axis = x.source_axis(axis)
    if axis == x.batch:
        if start != 0 or step != 1 or stop < (1 << 31) - 1:
            raise Unsupported("slices the batch")
        return x
    feature, sizes = x.feature(axis), x.tensor.shape
    positions = range(*slice(start, stop, step).indices(sizes[feature]))
    if step < 0 or not len(positions):
        return take(builder, x, axis, np.asarray(positions, dtype=np.int64))
    if positions == range(sizes[feature]):
        return x
    ranges = [(0, n, 1) for n in sizes]
    ranges[feature] = (positions.start, positions.stop, step)
    starts, stops, steps = zip(*ranges, strict=True)
    return builder.emit(Op.SLICE, [x], Ranges(starts=starts, stops=stops, steps=steps))


def pick(builder: Builder, x: Flow, axis: int, index: int) -> Flow:
    """x[index] along one axis, which goes away."""
    size = x.tensor.shape[x.feature(axis)]
    if not -size <= index < size:
        raise Unsupported(f"index {index} of {size} elements")
    return builder.squeeze(cut(builder, x, axis, index % size, index % size + 1), [axis])


def take(builder: Builder, x: Flow, axis: int, indices: AnyArray) -> Flow:
    """Elements along one axis at constant positions; the axes of `indices` stand in its place."""
    axis = x.source_axis(axis)
    feature = x.feature(axis)
    size = x.tensor.shape[feature]
    if indices.ndim == 0:
        return pick(builder, x, axis, int(indices))
    positions = tuple(int(i) % size if -size <= i < size else size for i in indices.reshape(-1))
    y = builder.emit(Op.GATHER, [x], Indices(axis=feature, indices=positions, shape=indices.shape))
    return replace(y, batch=x.batch + (indices.ndim - 1 if axis < x.batch else 0))


def embed(builder: Builder, table: Constant, ids: Flow) -> Flow:
    """Rows of a constant table [words, ...] at positions that flow."""
    rows = weight(table, "table")
    if rows.ndim == 0 or ids.tensor.dtype is not DType.INT64:
        raise Unsupported("looks up something else than rows by integers")
    y = builder.emit(Op.EMBEDDING, [ids, np.ascontiguousarray(rows.reshape(rows.shape[0], -1))])
    if rows.ndim == 2:
        return y
    shape = (*y.tensor.shape[:-1], *rows.shape[1:])
    return replace(builder.emit(Op.RESHAPE, [y], Target(shape=shape)), batch=ids.batch)


def split(builder: Builder, x: Flow, axis: int, sizes: Sequence[int]) -> list[Flow]:
    stops = np.cumsum(sizes)
    if int(stops[-1]) != x.tensor.shape[x.feature(axis)]:
        raise Unsupported("parts do not add up")
    return [cut(builder, x, axis, int(stop) - size, int(stop)) for size, stop in zip(sizes, stops, strict=True)]


def concat(builder: Builder, values: Sequence[Value], axis: int) -> Flow:
    widest = builder.common([v for v in values if isinstance(v, Flow)])
    feature = widest.feature(axis)
    operands: list[Flow | Array] = []
    for value in values:
        if isinstance(value, Flow):
            if value.rank != widest.rank:
                raise Unsupported("joins tensors of different rank")
            operands.append(value)
            continue
        array = builder.beside(value, widest, "part")
        shape = list(widest.tensor.shape)
        if array.ndim != len(shape):
            raise Unsupported("joins tensors of different rank")
        shape[feature] = array.shape[feature]
        operands.append(np.ascontiguousarray(np.broadcast_to(array, shape)))
    return builder.emit(Op.CONCAT, operands, Axis(axis=feature), like=widest)


def expand(builder: Builder, x: Flow, target: Constant) -> Flow:
    """Broadcast to a shape of the source; -1 and 1 keep a size."""
    sizes = [target.first.reshape(-1).tolist(), target.second.reshape(-1).tolist()]
    dims = x.dims()
    extra = len(sizes[0]) - len(dims)
    if extra < 0:
        sizes = [[1] * -extra + s for s in sizes]
    elif extra:
        x = builder.unsqueeze(x, list(range(extra)))
        dims = x.dims()
    for size, rows in zip(sizes, builder.probes, strict=True):
        if size[x.batch] not in (-1, 1, rows * product(x.merged)):
            raise Unsupported("expands the batch")
    shape = [
        k
        for n, size in zip(dims, sizes[0], strict=True)
        for k in (x.merged if n is None else (n if size in (-1, 1) else int(size),))
    ]
    if tuple(shape) == x.tensor.shape:
        return x
    return builder.emit(Op.EXPAND, [x], Target(shape=tuple(shape)))


def pad(builder: Builder, x: Flow, begin: Sequence[int], end: Sequence[int], mode: PadMode, value: float) -> Flow:
    """Per axis of the source; none on the batch."""
    places = [i for i in range(x.rank) if i != x.batch]
    if begin[x.batch] or end[x.batch]:
        raise Unsupported("pads the batch")
    widths = [[0] * len(x.tensor.shape) for _ in range(2)]
    for place in places:
        widths[0][x.feature(place)], widths[1][x.feature(place)] = begin[place], end[place]
    if not any(widths[0]) and not any(widths[1]):
        return x
    return builder.emit(Op.PAD, [x], Padding(begin=tuple(widths[0]), end=tuple(widths[1]), mode=mode, value=value))


def state(builder: Builder, value: Value | None, count: int, hidden: int) -> Flow | Array:
    """The state [directions, batch, hidden] of a recurrent layer; zeros where there is none."""
    if value is None:
        return np.zeros((count, hidden), dtype=np.float32)
    if isinstance(value, Constant):
        # Rows must be equal: the constant is seen as a neighbour of [directions, batch, hidden].
        return np.ascontiguousarray(float32(builder.uniform(value, 2), "state").reshape(count, hidden))
    if value.batch != 1 or value.merged:
        raise Unsupported("a state whose batch is not its second dimension")
    return value


def final_state(builder: Builder, sequence: Flow, count: int, *, reverse: bool) -> Flow:
    """[directions, batch, hidden]: the last step of each direction of [steps, directions * hidden]."""
    steps, width = sequence.tensor.shape
    hidden = width // count
    parts = []
    for direction in range(count):
        last = 0 if reverse or direction == 1 else steps - 1
        ranges = Ranges(starts=(last, direction * hidden), stops=(last + 1, (direction + 1) * hidden), steps=(1, 1))
        whole = (steps, width) == (1, hidden)
        parts.append(sequence if whole else builder.emit(Op.SLICE, [sequence], ranges))
    joined = parts[0] if count == 1 else builder.emit(Op.CONCAT, parts, Axis(axis=0))
    return Flow(tensor=joined.tensor, batch=1)
