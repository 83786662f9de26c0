"""Operators that move elements: most are another view of the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ...ir.attributes import Axis, Indices, Order, Padding, PadMode, Ranges, Target
from ...ir.graph import Op
from ..kernels.maps import print_fill
from ..steps import Step
from ..views import View, broadcast, reshaped
from .base import Lowering, Unsupported

MAX_RUNS = 256
"""Runs of positions at equal distances that one operator may copy."""


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


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first, distance, count) of positions at equal distances, one after the other, each as long as it gets."""
    found: list[tuple[int, int, int]] = []
    for index in indices:
        if found:
            first, distance, count = found[-1]
            if count == 1 or index == first + distance * count:
                found[-1] = (first, index - first if count == 1 else distance, count + 1)
                continue
        found.append((index, 1, 1))
    return found


def _stepped(x: View, axis: int, run: tuple[int, int, int]) -> View:
    """Positions of one axis at equal distances."""
    first, distance, count = run
    sizes = tuple(count if i == axis else n for i, n in enumerate(x.shape))
    strides = tuple(distance * s if i == axis else s for i, s in enumerate(x.strides))
    return replace(x.moved(first * x.strides[axis]), shape=sizes, strides=strides)


def _taken(lowering: Lowering, x: View, axis: int, indices: Sequence[int]) -> View:
    """Positions along an axis: a view where they are at equal distances, else copied run by run."""
    runs = _runs(indices)
    if len(runs) == 1:
        return _stepped(x, axis, runs[0])
    if len(runs) > MAX_RUNS:
        raise Unsupported(f"gather of {len(indices)} positions")
    target = lowering.program.dense(tuple(len(indices) if i == axis else n for i, n in enumerate(x.shape)))
    start = 0
    for run in runs:
        lowering.map("{0}", [_stepped(x, axis, run)], _part(target, axis, start, run[2]))
        start += run[2]
    return target


def _gather(lowering: Lowering, step: Step, x: View, attributes: Indices) -> View:
    axis = 1 + attributes.axis % (len(x.shape) - 1)
    flat = _taken(lowering, x, axis, attributes.indices)
    shape = lowering.shape(step.output)
    return reshaped(flat, shape) or _must(reshaped(lowering.copied(flat), shape))


def _pad(lowering: Lowering, step: Step, x: View, attributes: Padding) -> View:
    if attributes.mode is PadMode.CONSTANT:
        return _surrounded(lowering, step, x, attributes)
    mode: Literal["reflect", "edge"] = "reflect" if attributes.mode is PadMode.REFLECT else "edge"
    for axis, (begin, end) in enumerate(zip(attributes.begin, attributes.end, strict=True), start=1):
        kept = np.arange(x.shape[axis])[max(0, -begin) : x.shape[axis] - max(0, -end)]
        indices = np.pad(kept, (max(0, begin), max(0, end)), mode=mode)
        x = _taken(lowering, x, axis, indices.tolist())
    return x


def _surrounded(lowering: Lowering, step: Step, x: View, attributes: Padding) -> View:
    """By a constant; negative numbers cut off."""
    target = lowering.program.dense(lowering.shape(step.output))
    lowering.program.call(print_fill(target.size, attributes.value), target.place)
    inner = target
    for axis, (begin, end) in enumerate(zip(attributes.begin, attributes.end, strict=True), start=1):
        x = _part(x, axis, max(0, -begin), x.shape[axis] + min(0, begin) + min(0, end))
        inner = _part(inner, axis, max(0, begin), x.shape[axis])
    lowering.map("{0}", [x], inner)
    return target
