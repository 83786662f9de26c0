"""Operators that move elements: most are another view of the same memory."""

from __future__ import annotations

import itertools
from dataclasses import replace

from ...ir.attributes import Axis, Indices, Order, Padding, PadMode, Ranges, Target
from ...ir.graph import Op
from ..kernels.maps import print_fill
from ..steps import Step
from ..views import View, broadcast, reshaped
from .base import Lowering, Unsupported

MAX_GATHERED = 256
"""Positions that are copied one by one."""


def lower_movement(lowering: Lowering, step: Step) -> None:
    node = step.node
    attributes = node.attributes
    if node.op is Op.CONCAT:
        assert isinstance(attributes, Axis)
        view = _concat(lowering, step, attributes.axis)
    else:
        x = lowering.operand(node.operands[0])
        match attributes:
            case Target() if node.op is Op.RESHAPE:
                view = reshaped(x, (x.shape[0], *attributes.shape)) or _must(
                    reshaped(lowering.copied(x), (x.shape[0], *attributes.shape))
                )
            case Target():
                view = broadcast(x, lowering.shape(step.output))
            case Order():
                order = (0, *(axis + 1 for axis in attributes.order))
                view = View(
                    place=x.place,
                    shape=tuple(x.shape[i] for i in order),
                    strides=tuple(x.strides[i] for i in order),
                )
            case Ranges():
                view = _slice(x, attributes)
            case Indices():
                view = _gather(lowering, step, x, attributes)
            case Padding():
                view = _pad(lowering, step, x, attributes)
            case _:
                raise Unsupported(node.op.value)
    lowering.views[step.output.name] = view


def _must(view: View | None) -> View:
    assert view is not None, "a row-major tensor takes any shape"
    return view


def _slice(x: View, ranges: Ranges) -> View:
    offset = sum(start * step for start, step in zip(ranges.starts, x.strides[1:], strict=True))
    sizes = [len(range(*each)) for each in zip(ranges.starts, ranges.stops, ranges.steps, strict=True)]
    strides = [step * each for step, each in zip(ranges.steps, x.strides[1:], strict=True)]
    return replace(x.moved(offset), shape=(x.shape[0], *sizes), strides=(x.strides[0], *strides))


def _part(view: View, axis: int, start: int, size: int) -> View:
    shape = tuple(size if i == axis else n for i, n in enumerate(view.shape))
    return replace(view.moved(start * view.strides[axis]), shape=shape)


def _concat(lowering: Lowering, step: Step, axis: int) -> View:
    parts = [lowering.operand(operand) for operand in step.node.operands]
    rank = len(step.output.shape)
    target = lowering.result(step.output, like=None)
    start = 0
    for part in parts:
        size = part.shape[1 + axis % rank]
        lowering.map("{0}", [part], _part(target, 1 + axis % rank, start, size))
        start += size
    return target


def _gather(lowering: Lowering, step: Step, x: View, attributes: Indices) -> View:
    """Positions at equal distances are a view; others are copied one by one."""
    axis = 1 + attributes.axis % (len(x.shape) - 1)
    indices = attributes.indices
    distances = {b - a for a, b in itertools.pairwise(indices)}
    if len(indices) == 1 or (len(distances) == 1 and len(attributes.shape) == 1):
        distance = next(iter(distances), 1)
        sizes = (*x.shape[:axis], *attributes.shape, *x.shape[axis + 1 :])
        strides = (*x.strides[:axis], *(distance * x.strides[axis] for _ in attributes.shape), *x.strides[axis + 1 :])
        return replace(x.moved(indices[0] * x.strides[axis]), shape=sizes, strides=strides)
    if len(indices) > MAX_GATHERED:
        raise Unsupported(f"gather of {len(indices)} positions")
    flat = lowering.program.dense((*x.shape[:axis], len(indices), *x.shape[axis + 1 :]))
    for position, index in enumerate(indices):
        lowering.map("{0}", [_part(x, axis, index, 1)], _part(flat, axis, position, 1))
    return _must(reshaped(flat, lowering.shape(step.output)))


def _pad(lowering: Lowering, step: Step, x: View, attributes: Padding) -> View:
    if attributes.mode is not PadMode.CONSTANT or min(*attributes.begin, *attributes.end, 0) < 0:
        raise Unsupported(f"padding by {attributes.mode.value}, or by cutting off")
    target = lowering.program.dense(lowering.shape(step.output))
    lowering.program.call(print_fill(target.size, attributes.value), target.place)
    inner = target
    for axis, begin in enumerate(attributes.begin):
        inner = _part(inner, axis + 1, begin, x.shape[axis + 1])
    lowering.map("{0}", [x], inner)
    return target
