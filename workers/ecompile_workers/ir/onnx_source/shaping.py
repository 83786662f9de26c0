"""ONNX operators that move elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attributes import PadMode
from ..importing import operations
from ..importing.values import Constant, Flow, Unsupported, Value, folded
from ..operators.spec import product
from .call import Call, Converter


def shape(call: Call) -> Value:
    """The sizes, with the batch different between the two probes."""
    x = call.flow()
    bounds = slice(call.integer("start", 0), call.integer("end", x.rank))
    first, second = (np.asarray(x.shape(rows), dtype=np.int64)[bounds] for rows in call.builder.probes)
    return Constant(first=first, second=second)


def size(call: Call) -> Value:
    first, second = (np.asarray(product(call.flow().shape(rows)), dtype=np.int64) for rows in call.builder.probes)
    return Constant(first=first, second=second)


def reshape(call: Call) -> Value:
    """0 copies a size, unless `allowzero`."""
    x, target = call.flow(), call.constant(1)
    if not call.integer("allowzero", 0):
        first, second = call.builder.probes
        target = Constant(
            first=np.asarray(_copied(target.first, x.shape(first)), dtype=np.int64),
            second=np.asarray(_copied(target.second, x.shape(second)), dtype=np.int64),
        )
    return call.builder.reshape(x, _batch_freed(call, x, target))


def _copied(target: np.ndarray[tuple[int, ...], np.dtype[np.int64]], shape: tuple[int, ...]) -> list[int]:
    sizes = [int(v) for v in target.reshape(-1)]
    if any(n == 0 and i >= len(shape) for i, n in enumerate(sizes)):
        raise Unsupported("copies a size that is not there")
    return [shape[i] if n == 0 else n for i, n in enumerate(sizes)]


def _batch_freed(call: Call, x: Flow, target: Constant) -> Constant:
    """Some exporters write the batch of 1 that they saw into the target of a model with a symbolic batch."""
    sizes = target.first.tolist()
    one_row = sizes and sizes[0] == 1 and -1 not in sizes and product(sizes) == x.tensor.size
    if call.builder.static is None and x.plain and one_row:
        return folded(lambda t: np.asarray([-1, *t[1:]]), target)
    return target


def flatten(call: Call) -> Value:
    x = call.flow()
    axis = call.integer("axis", 1)
    axis = axis % x.rank if axis < 0 else axis
    targets = []
    for rows in call.builder.probes:
        sizes = x.shape(rows)
        targets.append(np.asarray([product(sizes[:axis]), product(sizes[axis:])]))
    return call.builder.reshape(x, Constant(first=targets[0], second=targets[1]))


def squeeze(call: Call) -> Value:
    axes = call.told("axes", 1)
    return call.builder.squeeze(call.flow(), None if axes is None else axes.integers)


def unsqueeze(call: Call) -> Value:
    axes = call.told("axes", 1)
    if axes is None:
        raise Unsupported("axes are missing")
    return call.builder.unsqueeze(call.flow(), axes.integers)


def transpose(call: Call) -> Value:
    x = call.flow()
    return call.builder.transpose(x, call.integers("perm", range(x.rank)[::-1]))


def concat(call: Call) -> Value:
    values = [call.value(i) for i in range(len(call.operands))]
    return operations.concat(call.builder, values, call.integer("axis", 0))


def cut(call: Call) -> Value:
    """Bounds are attributes before opset 10."""
    x, starts, stops = call.flow(), call.told("starts", 1), call.told("ends", 2)
    if starts is None or stops is None:
        raise Unsupported("bounds are missing")
    axes, steps = call.told("axes", 3), call.told("steps", 4)
    places = axes.integers if axes is not None else list(range(len(starts.integers)))
    strides = steps.integers if steps is not None else [1] * len(places)
    for axis, start, stop, step in zip(places, starts.integers, stops.integers, strides, strict=True):
        # ONNX clamps a stop below the first element to "before it", which Python writes as None.
        below = step < 0 and stop < -(x.shape(call.builder.probes[0])[x.source_axis(axis)])
        x = operations.cut(call.builder, x, axis, start, -(1 << 62) if below else stop, step)
    return x


def split(call: Call) -> Sequence[Value]:
    """Sizes are an attribute before opset 13; equal parts where they are not given, the last one smaller."""
    x, axis, told = call.flow(), call.integer("axis", 0), call.told("split", 1)
    size = x.tensor.shape[x.feature(axis)]
    if told is not None:
        return operations.split(call.builder, x, axis, told.integers)
    count = call.integer("num_outputs", len(call.outputs))
    part = -(-size // count)
    sizes = [part] * (size // part) + ([size % part] if size % part else [])
    if len(sizes) != count:
        raise Unsupported(f"{size} elements in {count} parts")
    return operations.split(call.builder, x, axis, sizes)


def expand(call: Call) -> Value:
    return operations.expand(call.builder, call.flow(), call.constant(1))


def pad(call: Call) -> Value:
    """Widths are an attribute before opset 11; axes may be given from opset 18."""
    x, widths = call.flow(), call.told("pads", 1)
    if widths is None:
        raise Unsupported("widths are missing")
    modes = {"constant": PadMode.CONSTANT, "reflect": PadMode.REFLECT, "edge": PadMode.EDGE}
    mode = call.text("mode", "constant")
    if mode not in modes:
        raise Unsupported(f"mode {mode}")
    value = call.constant(2).scalar if call.operand(2) is not None else call.number("value", 0.0)
    axes = call.constant(3).integers if call.operand(3) is not None else list(range(x.rank))
    count = len(axes)
    begin, end = [0] * x.rank, [0] * x.rank
    for axis, before, after in zip(axes, widths.integers[:count], widths.integers[count:], strict=True):
        begin[x.source_axis(axis)], end[x.source_axis(axis)] = before, after
    return operations.pad(call.builder, x, begin, end, modes[mode], value)


CONVERTERS: dict[str, Converter] = {
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Slice": cut,
    "Split": split,
    "Expand": expand,
    "Pad": pad,
}
