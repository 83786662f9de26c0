"""Matrix products, convolutions and pooling as nests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...ir.attributes import Attention, Convolution, Pool
from ...ir.graph import Node, Op
from ...ir.operators.dense import causal_mask
from ..lowering.base import Unsupported
from ..views import View, broadcast
from .nest import Expression, Fold, Folded, Load, add, mul
from .program import Loops, at
from .reductions import softmax


def product(loops: Loops, a: View, b: View, shape: Sequence[int], *, then: Expression | None = None) -> View:
    """a [..., m, k] times b [..., k, n], outer axes broadcast to those of `shape`."""
    outer, depth = tuple(shape[:-2]), a.shape[-1]
    left, right = (broadcast(x, (*outer, *x.shape[-2:])) for x in (a, b))
    x = Load(place=a.place, strides=(*left.strides[:-1], 0, left.strides[-1]))
    y = Load(place=b.place, strides=(*right.strides[:-2], 0, right.strides[-1], right.strides[-2]))
    return loops.put(loops.fresh(shape), mul(x, y), reduced=(depth,), then=then)


def gemm(loops: Loops, node: Node) -> None:
    x, weight, bias = (loops.operand(operand) for operand in node.operands)
    shape = node.output.shape
    left = Load(place=x.place, strides=(*x.strides[:-1], 0, x.strides[-1]))
    right = Load(place=weight.place, strides=(*(0,) * (len(shape) - 1), weight.strides[1], weight.strides[0]))
    target = loops.put(
        loops.fresh(shape), mul(left, right), reduced=(x.shape[-1],), then=add(Folded(), at(bias, shape))
    )
    loops.tensors[node.output.name] = target


def matmul(loops: Loops, node: Node) -> None:
    a, b = (loops.operand(operand) for operand in node.operands)
    loops.tensors[node.output.name] = product(loops, a, b, node.output.shape)


def attention(loops: Loops, node: Node) -> None:
    """softmax(scale Q K^T + mask) V."""
    a = node.attributes
    assert isinstance(a, Attention)
    query, key, value, *masks = (loops.operand(operand) for operand in node.operands)
    shape = node.output.shape
    keys = key.shape[-2]
    scores = (*shape[:-1], keys)
    turned = replace(
        key, shape=(*key.shape[:-2], *key.shape[:-3:-1]), strides=(*key.strides[:-2], *key.strides[:-3:-1])
    )
    if a.causal:
        masks.append(loops.constant(np.maximum(causal_mask(shape[-2], keys), -1e30).astype(np.float32)))
    then: Expression = mul(Folded(), a.scale)
    for mask in masks:
        then = add(then, at(mask, scores))
    weights = softmax(loops, product(loops, query, turned, scores, then=then))
    loops.tensors[node.output.name] = product(loops, weights, value, shape)


def convolution(loops: Loops, node: Node) -> None:
    a = node.attributes
    assert isinstance(a, Convolution)
    x, weight, bias = (loops.operand(operand) for operand in node.operands)
    if min((*a.begin, *a.end), default=0) < 0:
        raise Unsupported("convolution with negative padding")
    x = loops.padded(x, (0, *a.begin), (0, *a.end), 0.0)
    outputs, channels, *kernel = weight.shape
    size = outputs // a.groups
    whole = loops.fresh(node.output.shape)
    target = replace(
        whole,
        shape=(a.groups, size, *node.output.shape[1:]),
        strides=(size * whole.strides[0], *whole.strides),
    )
    moves = [s * step for s, step in zip(x.strides[1:], a.strides, strict=True)]
    taps = [s * step for s, step in zip(x.strides[1:], a.dilations, strict=True)]
    none = (0,) * len(kernel)
    source = Load(place=x.place, strides=(channels * x.strides[0], 0, *moves, x.strides[0], *taps))
    factor = Load(place=weight.place, strides=(size * weight.strides[0], weight.strides[0], *none, *weight.strides[1:]))
    offset = Load(place=bias.place, strides=(size * bias.strides[0], bias.strides[0], *none, *(0,) * (1 + len(kernel))))
    loops.put(target, mul(source, factor), reduced=(channels, *kernel), then=add(Folded(), offset))
    loops.tensors[node.output.name] = whole


def pool(loops: Loops, node: Node) -> None:
    a = node.attributes
    assert isinstance(a, Pool)
    x = loops.operand(node.operands[0])
    average = node.op is Op.AVERAGE_POOL
    sizes, windows = x.shape[1:], node.output.shape[1:]
    lists = (sizes, windows, a.kernel, a.strides, a.dilations, a.begin)
    ends = [max(0, (w - 1) * s + (k - 1) * d + 1 - n - b) for n, w, k, s, d, b in zip(*lists, strict=True)]
    x = loops.padded(x, (0, *a.begin), (0, *ends), 0.0 if average else float("-inf"))
    moves = [s * step for s, step in zip(x.strides[1:], a.strides, strict=True)]
    taps = [s * step for s, step in zip(x.strides[1:], a.dilations, strict=True)]
    value = Load(place=x.place, strides=(x.strides[0], *moves, *taps))
    target = loops.fresh(node.output.shape)
    if average:
        scale = loops.constant((1.0 / _counts(a, sizes, windows)).astype(np.float32))
        then: Expression = mul(Folded(), at(scale, node.output.shape, reduced=len(a.kernel)))
        loops.put(target, value, reduced=a.kernel, then=then)
    else:
        loops.put(target, value, reduced=a.kernel, fold=Fold.MAX)
    loops.tensors[node.output.name] = target


def _counts(a: Pool, sizes: Sequence[int], windows: Sequence[int]) -> np.ndarray:
    """How many elements count in each window's average: a product over the dimensions."""
    counts = np.ones(())
    lists = (sizes, windows, a.kernel, a.strides, a.dilations, a.begin, a.end)
    for size, count, kernel, stride, dilation, begin, end in zip(*lists, strict=True):
        places = np.arange(count)[:, None] * stride - begin + np.arange(kernel)[None, :] * dilation
        low, high = (-begin, size + end) if a.count_padding else (0, size)
        counts = counts[..., None] * ((places >= low) & (places < high)).sum(axis=1)
    return counts
