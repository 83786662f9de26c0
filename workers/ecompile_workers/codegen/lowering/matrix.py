"""Matrix layers, products of two tensors, and attention."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ...ir.attributes import Attention
from ...ir.graph import Array
from ...ir.operators.dense import causal_mask
from ..kernels.gemm import Gemm, Tile, choose_chains, choose_tile, pack, padded_bias, panel_widths, print_gemm
from ..kernels.packing import print_pack
from ..steps import Step
from ..views import View, broadcast, collapsed, product
from .base import Lowering, Unsupported
from .reductions import softmax_of

MAX_PRODUCTS = 512
"""Matrix products that one operator may stand for."""


def positions(views: Sequence[View]) -> tuple[tuple[int, int], list[tuple[int, int]]] | None:
    """All axes but the last as (outer, inner) sizes, with the steps of each view; None where it takes more loops."""
    sizes, steps = collapsed(views[0].shape[:-1], [view.strides[:-1] for view in views])
    if len(sizes) > 2:
        return None
    outer, inner = (1, *sizes) if len(sizes) == 1 else (sizes or (1, 1))
    pairs = []
    for each in steps:
        first, second = (0, *each) if len(each) == 1 else (each or (0, 0))
        pairs.append((first, second))
    return (outer, inner), pairs


def lower_gemm(lowering: Lowering, step: Step) -> None:
    node = step.node
    if not {"weight", "bias"} <= node.constants.keys():
        raise Unsupported("matrix whose weights are computed")
    weight, bias = node.constants["weight"], node.constants["bias"]
    level = lowering.program.level
    x = lowering.views[node.inputs[0]]
    if x.strides[-1] != 1 and x.shape[-1] != 1:
        x = lowering.copied(x)
    residual = broadcast(lowering.views[step.residual], lowering.shape(step.output)) if step.residual else None
    if residual is not None and residual.strides[-1] != 1:
        residual = lowering.copied(residual)
    target = lowering.result(step.output, exact=False)
    if target.strides[-1] != 1:
        target = lowering.padded_rows(target.shape)
    flat = len(x.shape) == 2
    found = positions([x, target, *([residual] if residual is not None else [])])
    if found is None:
        x = lowering.copied(x)
        residual = lowering.copied(residual) if residual is not None else None
        target = lowering.padded_rows(target.shape)
        found = positions([x, target, *([residual] if residual is not None else [])])
    if found is None:
        raise Unsupported("a matrix over this many axes")
    (outer, inner), pairs = found
    gemm = Gemm(
        outer=outer,
        inner=inner,
        x_steps=pairs[0],
        y_steps=pairs[1],
        residual_steps=pairs[2] if residual is not None else None,
        length=weight.shape[0],
        outputs=weight.shape[1],
        chains=choose_chains(level, weight.shape[0], weight.shape[1]) if flat else 1,
        activation=step.activation,
    )
    # One row alone reads the panels that a tile of rows reads.
    tile = choose_tile(level, max(inner, level.rows) if flat else inner, gemm.outputs)
    call_gemm(lowering, gemm, tile, x, (weight, bias), residual, target)
    lowering.views[step.output.name] = target


def call_gemm(
    lowering: Lowering, gemm: Gemm, tile: Tile, x: View, layer: tuple[Array, Array], residual: View | None, target: View
) -> None:
    """A product with constants: `layer` is the matrix [length, outputs] and the bias [outputs]."""
    program = lowering.program
    weight, bias = pack(layer[0], program.level, tile.vectors), padded_bias(layer[1], program.level)
    places = [
        x.place,
        *(program.constant(program.blob.put(each)) for each in (weight, bias)),
        *([residual.place] if residual is not None else []),
        target.place,
    ]
    program.call(print_gemm(gemm, tile, program.level), *places)


def multiply(
    lowering: Lowering, a: View, b: View, target: View, *, scale: float = 1.0, residual: View | None = None
) -> None:
    """target = scale * a b + residual for matrices a [rows, depth], b [depth, outputs] that flow.

    The target has room for full vectors in each row, and rows are written in order.
    """
    level = lowering.program.level
    rows, depth = a.shape
    outputs = b.shape[1]
    tile = choose_tile(level, rows, outputs)
    widths = panel_widths(level, outputs, tile.vectors)
    packed = lowering.program.scratch(sum(widths) * level.lanes * depth)
    steps = (b.strides[0], b.strides[1])
    lowering.program.call(print_pack(depth, outputs, steps, widths, scale=scale, lanes=level.lanes), b.place, packed)
    gemm = Gemm(
        outer=1,
        inner=rows,
        x_steps=(0, a.strides[0]),
        y_steps=(0, target.strides[0]),
        residual_steps=(0, residual.strides[0]) if residual is not None else None,
        length=depth,
        outputs=outputs,
    )
    zeros = lowering.program.constant(lowering.program.blob.put(padded_bias(np.zeros(outputs, np.float32), level)))
    places = [a.place, packed, zeros, *([residual.place] if residual is not None else []), target.place]
    lowering.program.call(print_gemm(gemm, tile, level), *places)


def _matrices(view: View, outer: Sequence[int]) -> list[View]:
    """The matrices of a tensor [*outer, rows, columns], in order, the outer axes broadcast."""
    wide = broadcast(view, (*outer, *view.shape[-2:]))
    found = []
    for index in itertools.product(*(range(n) for n in outer)):
        offset = sum(i * s for i, s in zip(index, wide.strides, strict=False))
        found.append(View(place=wide.moved(offset).place, shape=wide.shape[-2:], strides=wide.strides[-2:]))
    return found


def _contiguous(lowering: Lowering, view: View) -> View:
    """Rows whose elements lie side by side."""
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else lowering.copied(view)


def lower_matmul(lowering: Lowering, step: Step) -> None:
    a, b = (lowering.operand(operand) for operand in step.node.operands)
    shape = lowering.shape(step.output)
    outer = shape[:-2]
    if product(outer) > MAX_PRODUCTS:
        raise Unsupported(f"{product(outer)} matrix products in one operator")
    target = lowering.padded_rows(shape)
    a = _contiguous(lowering, a)
    for left, right, y in zip(_matrices(a, outer), _matrices(b, outer), _matrices(target, outer), strict=True):
        multiply(lowering, left, right, y)
    lowering.views[step.output.name] = target


def lower_attention(lowering: Lowering, step: Step) -> None:
    """softmax(scale Q K^T + mask) V, head by head. The heads' outputs lie side by side, as what follows reads them."""
    node = step.node
    attributes = node.attributes
    assert isinstance(attributes, Attention)
    query, key, value, *masks = (lowering.operand(operand) for operand in node.operands)
    shape = lowering.shape(step.output)
    outer, (length, width) = shape[:-2], shape[-2:]
    if product(outer) > MAX_PRODUCTS:
        raise Unsupported(f"attention with {product(outer)} heads")
    keys = key.shape[-2]
    if attributes.causal:
        causal = lowering.constant(np.maximum(causal_mask(length, keys), -1e30).astype(np.float32))
        if masks:
            raise Unsupported("attention that is causal and masked")
        masks = [causal]
    target = _heads(lowering, shape, outer, length, width)
    biases = _matrices(broadcast(masks[0], (*outer, length, keys)), outer) if masks else [None] * product(outer)
    query = _contiguous(lowering, query)
    for q, k, v, bias, y in zip(
        _matrices(query, outer),
        _matrices(key, outer),
        _matrices(value, outer),
        biases,
        _matrices(target, outer),
        strict=True,
    ):
        scores = lowering.padded_rows((length, keys))
        turned = View(place=k.place, shape=k.shape[::-1], strides=k.strides[::-1])
        if bias is not None and (bias.strides[-1] != 1 or keys % lowering.lanes):
            wide = lowering.padded_rows((length, keys))
            lowering.map("{0}", [bias], wide)
            bias = wide
        multiply(lowering, q, turned, scores, scale=attributes.scale, residual=bias)
        weights = lowering.padded_rows((length, keys))
        softmax_of(lowering, scores, weights)
        multiply(lowering, weights, v, y)
    lowering.views[step.output.name] = target


def _heads(lowering: Lowering, shape: tuple[int, ...], outer: tuple[int, ...], length: int, width: int) -> View:
    """[rows, heads, length, width] laid out as [rows, length, heads, width] where full vectors fit."""
    if len(shape) != 4 or width % lowering.lanes:
        return lowering.padded_rows(shape)
    rows, heads = outer
    dense = lowering.program.dense((rows, length, heads, width))
    order = (0, 2, 1, 3)
    return View(place=dense.place, shape=shape, strides=tuple(dense.strides[i] for i in order))
