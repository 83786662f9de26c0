"""Operators that move elements: another view of the same buffer where strides can say it, else a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ...ir.attributes import Axis, Indices, Order, Padding, PadMode, Ranges, Target
from ...ir.graph import Node, Op
from ..lowering.base import Unsupported
from ..views import View, broadcast, reshaped
from .nest import Load, Lookup
from .program import Loops, at
from .reductions import permuted


def movement(loops: Loops, node: Node) -> None:
    loops.tensors[node.output.name] = _moved(loops, node)


def _moved(loops: Loops, node: Node) -> View:
    shape = node.output.shape
    a = node.attributes
    if node.op is Op.CONCAT:
        assert isinstance(a, Axis)
        return _concat(loops, node, a.axis % len(shape))
    x = loops.operand(node.operands[0])
    match a:
        case Target() if node.op is Op.RESHAPE:
            return _shaped(loops, x, shape)
        case Target():
            return broadcast(x, shape)
        case Order(order=order):
            return permuted(x, list(order))
        case Ranges():
            offset = sum(start * step for start, step in zip(a.starts, x.strides, strict=True))
            strides = tuple(step * each for step, each in zip(a.steps, x.strides, strict=True))
            return replace(x.moved(offset), shape=shape, strides=strides)
        case Indices(axis=axis, indices=indices):
            return _shaped(loops, taken(loops, x, axis % len(x.shape), indices), shape)
        case Padding(mode=PadMode.CONSTANT):
            return _surrounded(loops, x, a)
        case Padding():
            return _continued(loops, x, a)
    raise Unsupported(node.op.value)


def _shaped(loops: Loops, x: View, shape: Sequence[int]) -> View:
    found = reshaped(x, shape) or reshaped(loops.copied(x), shape)
    assert found is not None, "a row-major tensor takes any shape"
    return found


def part(view: View, axis: int, start: int, size: int) -> View:
    shape = tuple(size if i == axis else n for i, n in enumerate(view.shape))
    return replace(view.moved(start * view.strides[axis]), shape=shape)


def _concat(loops: Loops, node: Node, axis: int) -> View:
    target = loops.fresh(node.output.shape)
    start = 0
    for operand in node.operands:
        view = loops.operand(operand)
        size = view.shape[axis]
        loops.put(part(target, axis, start, size), at(view, view.shape))
        start += size
    return target


def taken(loops: Loops, x: View, axis: int, indices: Sequence[int]) -> View:
    """Positions along an axis, from a table of them."""
    table = loops.constant(np.array(indices, np.float32))
    target = loops.fresh([len(indices) if i == axis else n for i, n in enumerate(x.shape)])
    rest = tuple(0 if i == axis else s for i, s in enumerate(x.strides))
    index = Load(place=table.place, strides=tuple(int(i == axis) for i in range(len(x.shape))))
    load = Load(place=x.place, strides=rest)
    return loops.put(target, Lookup(load=load, index=index, step=x.strides[axis], count=x.shape[axis]))


def _surrounded(loops: Loops, x: View, a: Padding) -> View:
    for axis, (begin, end) in enumerate(zip(a.begin, a.end, strict=True)):
        x = part(x, axis, max(0, -begin), x.shape[axis] + min(0, begin) + min(0, end))
    return loops.padded(x, [max(0, b) for b in a.begin], [max(0, e) for e in a.end], a.value)


def _continued(loops: Loops, x: View, a: Padding) -> View:
    mode: Literal["reflect", "edge"] = "reflect" if a.mode is PadMode.REFLECT else "edge"
    for axis, (begin, end) in enumerate(zip(a.begin, a.end, strict=True)):
        if begin or end:
            x = taken(loops, x, axis, np.pad(np.arange(x.shape[axis]), (begin, end), mode=mode).tolist())
    return x


def embedding(loops: Loops, node: Node) -> None:
    """Rows of a table; ids flow as float32, exact up to 2**24."""
    ids, table = (loops.operand(operand) for operand in node.operands)
    target = loops.fresh(node.output.shape)
    index = Load(place=ids.place, strides=(*ids.strides, 0))
    load = Load(place=table.place, strides=(*(0,) * len(ids.shape), table.strides[1]))
    loops.put(target, Lookup(load=load, index=index, step=table.strides[0], count=table.shape[0]))
    loops.tensors[node.output.name] = target
