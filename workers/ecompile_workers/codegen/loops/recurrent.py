"""LSTM and GRU as nests, step by step; equations in `ir/operators/recurrent.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.attributes import Direction, Emit, Recurrent
from ...ir.graph import Node, Op
from ...ir.operators.recurrent import directions
from ..lowering.base import Unsupported
from ..views import View
from .movement import part
from .nest import Expression, Folded, Function, Load, add, call, mul, sigmoid, sub
from .program import Loops, at

MAX_STEPS = 256
"""Steps of a sequence: each is written out."""


def row(view: View, index: int) -> View:
    """view[index]."""
    return replace(view.moved(index * view.strides[0]), shape=view.shape[1:], strides=view.strides[1:])


def times(loops: Loops, matrix: View, x: View, *, then: Expression | None = None) -> View:
    """matrix [outputs, inputs] times x [inputs]."""
    a = Load(place=matrix.place, strides=matrix.strides)
    b = Load(place=x.place, strides=(0, x.strides[0]))
    return loops.put(loops.fresh(matrix.shape[:1]), mul(a, b), reduced=x.shape, then=then)


def recurrent(loops: Loops, node: Node) -> None:
    a = node.attributes
    assert isinstance(a, Recurrent)
    x, *weights = (loops.operand(operand) for operand in node.operands)
    steps, size = x.shape[0], weights[1].shape[2]
    if steps > MAX_STEPS:
        raise Unsupported(f"recurrent layer over {steps} steps")
    y = loops.fresh((steps, directions(a) * size))
    cells = loops.fresh((directions(a), size))
    for d in range(directions(a)):
        backwards = d == 1 or a.direction is Direction.REVERSE
        mine = [row(view, d) for view in weights]
        state, cell = mine[4], mine[-1]
        for t in range(steps)[::-1] if backwards else range(steps):
            target = part(row(y, t), 0, d * size, size)
            if node.op is Op.LSTM:
                cell = _lstm(loops, row(x, t), mine, state, cell, target)
            else:
                _gru(loops, row(x, t), mine, state, target, reset_after=a.reset_after)
            state = target
        loops.put(row(cells, d), at(cell, (size,)))
    loops.tensors[node.output.name] = cells if a.emit is Emit.CELL else y


def _gates(view: View, count: int) -> list[Load]:
    size = view.shape[0] // count
    return [at(part(view, 0, g * size, size), (size,)) for g in range(count)]


def _biased(bias: View) -> Expression:
    return add(Folded(), at(bias, bias.shape))


def _lstm(loops: Loops, x: View, weights: Sequence[View], state: View, cell: View, target: View) -> View:
    """Writes the state; returns the cell."""
    weight, matrix, bias, offset = weights[:4]
    ours = times(loops, weight, x, then=_biased(bias))
    whole = times(loops, matrix, state, then=add(_biased(offset), at(ours, ours.shape)))
    i, f, g, o = _gates(whole, 4)
    new = add(mul(sigmoid(f), at(cell, cell.shape)), mul(sigmoid(i), call(Function.TANH, g)))
    kept = loops.put(loops.fresh(cell.shape), new)
    loops.put(target, mul(sigmoid(o), call(Function.TANH, at(kept, kept.shape))))
    return kept


def _gru(loops: Loops, x: View, weights: Sequence[View], state: View, target: View, *, reset_after: bool) -> None:
    weight, matrix, bias, offset = weights[:4]
    size = state.shape[0]
    before = at(state, (size,))
    xr, xz, xn = _gates(times(loops, weight, x, then=_biased(bias)), 3)
    hr, hz, hn = _gates(times(loops, matrix, state, then=_biased(offset)), 3)
    reset = sigmoid(add(xr, hr))
    if reset_after:
        new = add(xn, mul(reset, hn))
    else:
        kept = loops.put(loops.fresh((size,)), mul(reset, before))
        last = times(loops, part(matrix, 0, 2 * size, size), kept, then=_biased(part(offset, 0, 2 * size, size)))
        new = add(xn, at(last, (size,)))
    n = loops.put(loops.fresh((size,)), call(Function.TANH, new))
    z = sigmoid(add(xz, hz))
    loops.put(target, add(at(n, (size,)), mul(z, sub(before, at(n, (size,))))))
