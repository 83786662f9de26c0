"""ONNX LSTM and GRU: gates and weights in another order than ours, states as further outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..attributes import Direction, Emit, Recurrent, Target
from ..graph import Array, Op
from ..importing import operations
from ..importing.values import Flow, Unsupported, Value
from .call import Call, Converter

GATES = {Op.LSTM: [0, 2, 3, 1], Op.GRU: [1, 0, 2]}
"""Our gates in terms of ONNX's: LSTM i, o, f, c -> input, forget, cell, output; GRU z, r, h -> reset, update, new."""
ACTIVATIONS = {Op.LSTM: ["Sigmoid", "Tanh", "Tanh"], Op.GRU: ["Sigmoid", "Tanh"]}
DIRECTIONS = {"forward": Direction.FORWARD, "reverse": Direction.REVERSE, "bidirectional": Direction.BOTH}


def reordered(weights: Array, gates: Sequence[int]) -> Array:
    """[directions, gates * hidden, ...] with the gates in another order."""
    blocks = np.split(weights, len(gates), axis=1)
    return np.ascontiguousarray(np.concatenate([blocks[g] for g in gates], axis=1))


def layer(call: Call, *, op: Op) -> Sequence[Value]:
    """Operands X, W, R, B, sequence lengths, initial_h, initial_c, P; outputs Y, Y_h, Y_c."""
    settings = _settings(call, op)
    gates = GATES[op]
    weight, recurrent = reordered(call.weight(1), gates), reordered(call.weight(2), gates)
    count, hidden = recurrent.shape[0], recurrent.shape[2]
    told = call.optional_weight(3)
    both = np.zeros((count, 2 * len(gates) * hidden), dtype=np.float32) if told is None else told
    bias, recurrent_bias = (reordered(b, gates) for b in np.split(both, 2, axis=1))
    x = call.flow()
    if x.rank != 3 or x.batch != 1 or x.merged:
        raise Unsupported("the batch is not the second dimension of the sequence")
    builder = call.builder
    states = [operations.state(builder, call.operand(5), count, hidden)]
    if op is Op.LSTM:
        states.append(operations.state(builder, call.operand(6), count, hidden))
    operands = [x, weight, recurrent, bias, recurrent_bias, *states]
    reverse = settings.direction is Direction.REVERSE
    hiddens = builder.emit(op, operands, settings)
    steps = hiddens.tensor.shape[0]
    y = builder.emit(Op.RESHAPE, [hiddens], Target(shape=(steps, count, hidden)))
    found: list[Value] = [
        Flow(tensor=y.tensor, batch=2),
        operations.final_state(builder, hiddens, count, reverse=reverse),
    ]
    if op is Op.LSTM:
        cells = builder.emit(op, operands, Recurrent(direction=settings.direction, emit=Emit.CELL))
        found.append(Flow(tensor=cells.tensor, batch=1))
    return found


def _settings(call: Call, op: Op) -> Recurrent:
    direction = DIRECTIONS.get(call.text("direction", "forward"))
    expected = ACTIVATIONS[op] * (2 if direction is Direction.BOTH else 1)
    named = call.attributes.get("activations", expected)
    usual = [a.decode() if isinstance(a, bytes) else a for a in named] == expected
    odd = ("activation_alpha", "activation_beta", "clip")
    if direction is None or not usual or any(name in call.attributes for name in odd):
        raise Unsupported("other activations than the usual ones")
    if call.integer("layout", 0) or call.integer("input_forget", 0):
        raise Unsupported("layout or input_forget")
    if call.operand(4) is not None or call.operand(7) is not None:
        raise Unsupported("sequence lengths or peepholes")
    return Recurrent(direction=direction, reset_after=op is Op.LSTM or bool(call.integer("linear_before_reset", 0)))


CONVERTERS: dict[str, Converter] = {"LSTM": partial(layer, op=Op.LSTM), "GRU": partial(layer, op=Op.GRU)}
