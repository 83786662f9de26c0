"""ATen LSTM and GRU: layers of one call one after the other, and cells as layers of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..attributes import Axis, Direction, Emit, Recurrent, Target
from ..graph import Array, Op
from ..importing import operations
from ..importing.values import Constant, Flow, Unsupported, Value, folded, weight
from .call import Call, Converter, as_value


def layers(call: Call, *, op: Op) -> Sequence[Value]:
    """(output, final hidden states[, final cell states]) of all layers; dropout between them is off."""
    x = call.flow("input")
    batch = 0 if call.flag("batch_first") else 1
    if call.flag("train") or x.rank != 3 or x.batch != batch or x.merged:
        raise Unsupported("training mode, packed sequences, or a batch that is not where batch_first says")
    count, depth = 2 if call.flag("bidirectional") else 1, call.integer("num_layers")
    told = [as_value(v, "params") for v in call.get("params", ())]
    per_direction = 4 if call.flag("has_biases") else 2
    if len(told) != depth * count * per_direction or not all(isinstance(v, Constant) for v in told):
        raise Unsupported("projections, or weights that are computed")
    weights = [weight(v, "params") for v in told if isinstance(v, Constant)]
    given = call.get("hx")
    starts = [as_value(v, "hx") for v in (given if isinstance(given, tuple) else (given,))]
    hidden = weights[1].shape[1]
    finals: list[list[Flow]] = [[] for _ in starts]
    for index in range(depth):
        span = per_direction * count
        block = _stacked(weights[index * span : (index + 1) * span], count)
        states = [_layer_state(call, s, index, count, depth, hidden) for s in starts]
        x = _one(call, op, x, block, states, count, finals)
    return (x, *(_joined(call, parts) for parts in finals))


def _stacked(weights: Sequence[Array], count: int) -> list[Array]:
    """[directions, ...] of weight, recurrent weight, bias, recurrent bias; zeros where there are no biases."""
    each = len(weights) // count
    blocks = [list(weights[d * each : (d + 1) * each]) for d in range(count)]
    for block in blocks:
        if each == 2:
            block += [np.zeros(block[0].shape[0], dtype=np.float32)] * 2
    return [np.ascontiguousarray(np.stack(parts)) for parts in zip(*blocks, strict=True)]


def _layer_state(call: Call, value: Value, index: int, count: int, depth: int, hidden: int) -> Flow | Array:
    """The states of one layer's directions out of [layers * directions, batch, hidden]."""
    rows = slice(index * count, (index + 1) * count)
    if isinstance(value, Constant):
        return operations.state(call.builder, folded(lambda v: v[rows], value), count, hidden)
    part = operations.cut(call.builder, value, 0, rows.start, rows.stop) if depth > 1 else value
    return operations.state(call.builder, part, count, hidden)


def _one(
    call: Call,
    op: Op,
    x: Flow,
    block: Sequence[Array],
    states: Sequence[Flow | Array],
    count: int,
    finals: Sequence[list[Flow]],
) -> Flow:
    """One layer; its final states are added to `finals`."""
    direction = Direction.BOTH if count == 2 else Direction.FORWARD
    operands = [x, *block, *states]
    hiddens = call.builder.emit(op, operands, Recurrent(direction=direction))
    finals[0].append(operations.final_state(call.builder, hiddens, count, reverse=False))
    if op is Op.LSTM:
        cells = call.builder.emit(op, operands, Recurrent(direction=direction, emit=Emit.CELL))
        finals[1].append(Flow(tensor=cells.tensor, batch=1))
    return hiddens


def _joined(call: Call, parts: Sequence[Flow]) -> Flow:
    return parts[0] if len(parts) == 1 else call.builder.emit(Op.CONCAT, parts, Axis(axis=0))


def cell(call: Call, *, op: Op) -> Value | Sequence[Value]:
    """h' (and c') of one step for rows [batch, inputs] and states [batch, hidden]."""
    builder = call.builder
    x = builder.plain(call.flow("input"))
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    block = _stacked([call.weight(n) for n in names if call.get(n) is not None], 1)
    hidden = block[1].shape[2]
    given = call.get("hx")
    starts = [as_value(v, "hx") for v in (given if isinstance(given, tuple) else (given,))]
    steps = builder.emit(Op.RESHAPE, [x], Target(shape=(1, *x.tensor.shape)))
    states = [_cell_state(call, s, hidden) for s in starts]
    finals: list[list[Flow]] = [[] for _ in starts]
    _one(call, op, steps, block, states, 1, finals)
    results = [replace(builder.emit(Op.RESHAPE, parts, Target(shape=(hidden,))), batch=0) for parts in finals]
    return results[0] if len(results) == 1 else tuple(results)


def _cell_state(call: Call, value: Value, hidden: int) -> Flow | Array:
    if isinstance(value, Constant):
        return operations.state(call.builder, folded(lambda v: v[None], value), 1, hidden)
    return call.builder.emit(Op.RESHAPE, [call.builder.plain(value)], Target(shape=(1, hidden)))


CONVERTERS: dict[str, Converter] = {
    "lstm": partial(layers, op=Op.LSTM),
    "gru": partial(layers, op=Op.GRU),
    "lstm_cell": partial(cell, op=Op.LSTM),
    "gru_cell": partial(cell, op=Op.GRU),
}
