"""Reductions, softmax and normalisations as nests."""

from __future__ import annotations

from dataclasses import replace

from ...ir.attributes import Axis, LastAxes, Reduction
from ...ir.graph import Node, Op
from ..views import View, product, reshaped, row_major
from .nest import Expression, Fold, Folded, Function, Load, add, call, div, mul, sub
from .program import Loops, at

FOLDS = {Op.REDUCE_MEAN: Fold.SUM, Op.REDUCE_SUM: Fold.SUM, Op.REDUCE_MAX: Fold.MAX, Op.REDUCE_MIN: Fold.MIN}


def over_last(loops: Loops, x: View, fold: Fold, *, value: Expression | None = None, factor: float = 1.0) -> View:
    """Folded over the last axis, which stays with size 1. `value`: what is folded, by default x."""
    target = loops.fresh((*x.shape[:-1], 1))
    inner = replace(target, shape=x.shape[:-1], strides=target.strides[:-1])
    then: Expression = mul(Folded(), factor) if factor != 1.0 else Folded()
    load = Load(place=x.place, strides=x.strides)
    loops.put(inner, load if value is None else value, reduced=x.shape[-1:], fold=fold, then=then)
    return target


def softmax(loops: Loops, x: View) -> View:
    """e^(x - max) over its sum, on the last axis."""
    top = over_last(loops, x, Fold.MAX)
    power = loops.put(loops.fresh(x.shape), call(Function.EXP, sub(at(x, x.shape), at(top, x.shape))))
    total = over_last(loops, power, Fold.SUM)
    return loops.put(loops.fresh(x.shape), div(at(power, x.shape), at(total, x.shape)))


def softmax_node(loops: Loops, node: Node) -> None:
    a = node.attributes
    assert isinstance(a, Axis)
    x = loops.operand(node.operands[0])
    axis, rank = a.axis % len(x.shape), len(x.shape)
    order = [*(i for i in range(rank) if i != axis), axis]
    y = softmax(loops, permuted(x, order))
    loops.tensors[node.output.name] = permuted(y, [order.index(i) for i in range(rank)])


def permuted(view: View, order: list[int]) -> View:
    return replace(view, shape=tuple(view.shape[i] for i in order), strides=tuple(view.strides[i] for i in order))


def reduction(loops: Loops, node: Node) -> None:
    a = node.attributes
    assert isinstance(a, Reduction)
    x = loops.operand(node.operands[0])
    rank = len(x.shape)
    axes = sorted({axis % rank for axis in a.axes})
    kept = [axis for axis in range(rank) if axis not in axes]
    whole = loops.fresh(node.output.shape)
    shape = tuple(x.shape[axis] for axis in kept)
    target = replace(whole, shape=shape, strides=row_major(shape))
    reduced = tuple(x.shape[axis] for axis in axes)
    value = Load(place=x.place, strides=tuple(x.strides[axis] for axis in (*kept, *axes)))
    mean = node.op is Op.REDUCE_MEAN
    then: Expression = mul(Folded(), 1.0 / product(reduced)) if mean else Folded()
    loops.put(target, value, reduced=reduced, fold=FOLDS[node.op], then=then)
    loops.tensors[node.output.name] = whole


def norm(loops: Loops, node: Node) -> None:
    """Layer norm and RMS norm over the last axes."""
    a = node.attributes
    assert isinstance(a, LastAxes)
    shape = node.output.shape
    size = product(shape[len(shape) - a.count :])
    flat = reshaped(loops.dense(loops.operand(node.operands[0])), (product(shape) // size, size))
    assert flat is not None, "a row-major tensor takes any shape"
    x: Expression = at(flat, flat.shape)
    if node.op is Op.LAYER_NORM:
        mean = over_last(loops, flat, Fold.SUM, factor=1.0 / size)
        x = sub(x, at(mean, flat.shape))
    variance = over_last(loops, flat, Fold.SUM, value=mul(x, x), factor=1.0 / size)
    scale = call(Function.SQRT, add(at(variance, flat.shape), a.epsilon))
    gamma, *shifts = (loops.dense(loops.operand(operand)) for operand in node.operands[1:])
    value: Expression = mul(div(x, scale), _along(gamma))
    for beta in shifts:
        value = add(value, _along(beta))
    y = loops.put(loops.fresh(flat.shape), value)
    loops.tensors[node.output.name] = replace(y, shape=shape, strides=row_major(shape))


def _along(parameter: View) -> Load:
    """A dense parameter of the last axes, for each of the rows [rows, size]."""
    return Load(place=parameter.place, strides=(0, 1))
