"""Matrix products, embedding and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attributes import Attention, Attributes, Axis
from ..op import DType, Op
from .reductions import softmax
from .spec import Operator, Shape, ShapeError, Values, aligned, always, broadcast, product


def _gemm_shape(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    x, weight, bias = shapes
    if not x or len(weight) != 2 or x[-1] != weight[0] or bias != (weight[1],):
        raise ShapeError(f"input {x}, weight {weight} and bias {bias} do not fit")
    return (*x[:-1], weight[1])


def _gemm(attributes: Attributes, x: Values, weight: Values, bias: Values) -> Values:
    return np.asarray(x @ weight[0] + bias[0])


def _gemm_macs(attributes: Attributes, shapes: Sequence[Shape], output: Shape) -> int:
    return product(shapes[0][:-1]) * product(shapes[1])


def _matmul_shape(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    a, b = shapes
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ShapeError(f"matrices {a} and {b} do not fit")
    return (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])


def _matmul(attributes: Attributes, a: Values, b: Values) -> Values:
    return np.asarray(np.matmul(*aligned(a, b)))


def _matmul_macs(attributes: Attributes, shapes: Sequence[Shape], output: Shape) -> int:
    return product(output) * shapes[0][-1]


def _embedding_shape(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    ids, weight = shapes
    if len(weight) != 2:
        raise ShapeError(f"an embedding has [words, features], not {weight}")
    return (*ids, weight[1])


def _embedding(attributes: Attributes, ids: Values, weight: Values) -> Values:
    return np.asarray(weight[0][ids.astype(np.int64)])


def _attention_shape(attributes: Attention, shapes: Sequence[Shape]) -> Shape:
    query, key, value = shapes[:3]
    if min(len(query), len(key), len(value)) < 2 or query[-1] != key[-1] or key[-2] != value[-2]:
        raise ShapeError(f"query {query}, key {key} and value {value} do not fit")
    outer = broadcast([query[:-2], key[:-2], value[:-2]])
    if len(shapes) == 4:
        scores = (*outer, query[-2], key[-2])
        if broadcast([scores, shapes[3]]) != scores:
            raise ShapeError(f"mask {shapes[3]} does not fit scores {scores}")
    return (*outer, query[-2], value[-1])


def causal_mask(rows: int, columns: int) -> Values:
    """[rows, columns]: 0 where column <= row, else minus infinity."""
    return np.where(np.arange(columns)[None, :] <= np.arange(rows)[:, None], 0.0, -np.inf)


def _attention(a: Attention, query: Values, key: Values, value: Values, mask: Values | None = None) -> Values:
    """softmax(scale Q K^T + mask) V (Vaswani and others, arXiv:1706.03762)."""
    query, key, value = aligned(query, key, value)
    scores = a.scale * np.matmul(query, key.swapaxes(-1, -2))
    if mask is not None:
        scores = np.add(*aligned(scores, mask))
    if a.causal:
        scores = scores + causal_mask(scores.shape[-2], scores.shape[-1])
    return np.asarray(np.matmul(softmax(Axis(), scores), value))


def _attention_macs(attributes: Attention, shapes: Sequence[Shape], output: Shape) -> int:
    query, key = shapes[:2]
    return product(output[:-1]) * key[-2] * (query[-1] + output[-1])


TABLE: dict[Op, Operator[Any]] = {
    Op.GEMM: Operator(
        operands=("x", "weight", "bias"),
        attributes=Attributes,
        shape=_gemm_shape,
        evaluate=_gemm,
        macs=_gemm_macs,
    ),
    Op.MATMUL: Operator(
        operands=("a", "b"), attributes=Attributes, shape=_matmul_shape, evaluate=_matmul, macs=_matmul_macs
    ),
    Op.EMBEDDING: Operator(
        operands=("ids", "weight"),
        attributes=Attributes,
        shape=_embedding_shape,
        evaluate=_embedding,
        dtype=always(DType.FLOAT32),
    ),
    Op.ATTENTION: Operator(
        operands=("query", "key", "value", "mask"),
        optional=1,
        attributes=Attention,
        shape=_attention_shape,
        evaluate=_attention,
        macs=_attention_macs,
    ),
}
"""GEMM: y = x W + b on the last axis, W [inputs, outputs]. MATMUL: of the last two axes, the others broadcast."""
