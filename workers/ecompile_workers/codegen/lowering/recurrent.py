"""LSTM, GRU and embeddings: matrix products over all steps first, then step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.attributes import Direction, Emit, Recurrent
from ...ir.graph import Array, Op
from ...ir.operators.recurrent import GRU_GATES, LSTM_GATES, directions
from ..kernels.gemm import Gemm, choose_chains, choose_tile, pack, padded_bias, print_gemm
from ..kernels.recurrent import print_gru_step, print_lookup, print_lstm_step, print_reset
from ..steps import Step
from ..views import Place, View
from .base import Lowering, Unsupported

MAX_STEPS = 2048
"""Steps of a sequence; each is two or more statements."""
WEIGHTS = ("weight", "recurrent", "bias", "recurrent_bias")


def lower_embedding(lowering: Lowering, step: Step) -> None:
    """Rows of a constant table; ids flow as float32, exact up to 2**24."""
    node = step.node
    if "weight" not in node.constants:
        raise Unsupported("embedding whose table is computed")
    table = node.constants["weight"]
    ids = lowering.row_major(lowering.operand(node.operands[0]))
    target = lowering.program.dense(lowering.shape(step.output))
    text = print_lookup(ids.size, 1, table.shape[0], table.shape[1], table.shape[1])
    lowering.program.call(text, ids.place, lowering.constant(table).place, target.place)
    lowering.views[step.output.name] = target


def _spread(gates: Array, count: int, pitch: int) -> Array:
    """[..., count * size] -> [..., count * pitch], zeros after each gate."""
    size = gates.shape[-1] // count
    wide = np.zeros((*gates.shape[:-1], count, pitch), np.float32)
    wide[..., :size] = gates.reshape(*gates.shape[:-1], count, size)
    return wide.reshape(*gates.shape[:-1], count * pitch)


class _Matrix:
    """x W + b for one row or many, W [inputs, outputs] constant, outputs whole vectors."""

    def __init__(self, lowering: Lowering, weight: Array, bias: Array, *, rows: int = 1, row_step: int = 0) -> None:
        level, blob = lowering.program.level, lowering.program.blob
        self.lowering, self.outputs = lowering, weight.shape[1]
        tile = choose_tile(level, max(rows, level.rows), self.outputs)
        self.weights = [blob.put(pack(weight, level, tile.vectors)), blob.put(padded_bias(bias, level))]
        chains = choose_chains(level, weight.shape[0], self.outputs) if rows == 1 else 1

        def printed(residual: tuple[int, int] | None) -> str:
            gemm = Gemm(
                outer=1,
                inner=rows,
                x_steps=(0, row_step),
                y_steps=(0, self.outputs),
                residual_steps=residual,
                length=weight.shape[0],
                outputs=self.outputs,
                chains=chains,
            )
            return print_gemm(gemm, tile, level)

        self.plain, self.adding = printed(None), printed((0, self.outputs))

    def __call__(self, x: Place, y: Place, *, added: Place | None = None) -> None:
        program = self.lowering.program
        weights = [program.constant(offset) for offset in self.weights]
        if added is None:
            program.call(self.plain, x, *weights, y)
        else:
            program.call(self.adding, x, *weights, added, y)


def lower_recurrent(lowering: Lowering, step: Step) -> None:
    node = step.node
    a = node.attributes
    assert isinstance(a, Recurrent)
    if lowering.program.rows != 1 or not set(WEIGHTS) <= node.constants.keys():
        raise Unsupported("recurrent layer whose weights are computed")
    operands = [lowering.operand(operand) for operand in node.operands]
    x, states = operands[0], operands[1 + len(WEIGHTS) :]
    steps, size = x.shape[1], node.constants["recurrent"].shape[2]
    if steps > MAX_STEPS:
        raise Unsupported(f"recurrent layer over {steps} steps")
    if x.strides[2] != 1 and x.shape[2] != 1:
        x = lowering.copied(x)
    y = lowering.program.dense((1, steps, directions(a) * size))
    cells = lowering.program.dense((1, directions(a), size))
    run = _lstm if node.op is Op.LSTM else _gru
    for d in range(directions(a)):
        backwards = d == 1 or a.direction is Direction.REVERSE
        order = range(steps)[::-1] if backwards else range(steps)
        # Copies, so that whole vectors may be read.
        first = [_state(lowering, view, d) for view in states]
        rows = [y.moved(t * y.strides[1] + d * size).place for t in range(steps)]
        cell = run(lowering, a, _weights(node.constants, d), x, first, [(t, rows[t]) for t in order])
        if cell is not None:
            target = cells.moved(d * size)
            lowering.map("{0}", [cell], View(place=target.place, shape=(1, size), strides=(size, 1)))
    lowering.views[step.output.name] = cells if a.emit is Emit.CELL else y


def _state(lowering: Lowering, states: View, direction: int) -> View:
    """[1, hidden], a copy of the state before the first step."""
    view = states.moved(direction * states.strides[1])
    return lowering.copied(View(place=view.place, shape=(1, view.shape[2]), strides=(0, view.strides[2])))


Parts = tuple[Array, Array, Array, Array]
Rows = Sequence[tuple[int, Place]]
"""(step, where its state goes) in the order in which steps are read."""


def _weights(constants: Mapping[str, Array], direction: int) -> Parts:
    """Of one direction: W [inputs, gates * hidden], R [hidden, gates * hidden] and both biases."""
    weight, recurrent, bias, offset = (constants[name][direction] for name in WEIGHTS)
    return weight.T, recurrent.T, bias, offset


def _from_input(lowering: Lowering, x: View, weight: Array, bias: Array) -> View:
    """x W + b of all steps: [steps, outputs]."""
    target = lowering.program.dense((x.shape[1], weight.shape[1]))
    _Matrix(lowering, weight, bias, rows=x.shape[1], row_step=x.strides[1])(x.place, target.place)
    return target


def _pitch(lowering: Lowering, size: int) -> int:
    return -(-size // lowering.lanes) * lowering.lanes


def _lstm(lowering: Lowering, a: Recurrent, parts: Parts, x: View, states: Sequence[View], rows: Rows) -> View:
    """Writes the states; returns the last cell [1, hidden]."""
    weight, recurrent, bias, offset = parts
    size = recurrent.shape[0]
    pitch = _pitch(lowering, size)
    weight, recurrent, bias = (_spread(part, LSTM_GATES, pitch) for part in (weight, recurrent, bias + offset))
    gates = _from_input(lowering, x, weight, bias)
    matrix = _Matrix(lowering, recurrent, np.zeros_like(bias))
    text = print_lstm_step(size, pitch, lanes=lowering.lanes)
    hidden, cell = states[0].place, states[1]
    for t, row in rows:
        total = lowering.program.dense((LSTM_GATES * pitch,))
        matrix(hidden, total.place, added=gates.moved(t * gates.strides[0]).place)
        lowering.program.call(text, total.place, cell.place, row)
        hidden = row
    return cell


def _gru(lowering: Lowering, a: Recurrent, parts: Parts, x: View, states: Sequence[View], rows: Rows) -> None:
    weight, recurrent, bias, offset = parts
    size = recurrent.shape[0]
    pitch, lanes, program = _pitch(lowering, size), lowering.lanes, lowering.program
    weight, recurrent, bias, offset = (_spread(part, GRU_GATES, pitch) for part in (weight, recurrent, bias, offset))
    gates = _from_input(lowering, x, weight, bias)
    split = GRU_GATES * pitch if a.reset_after else 2 * pitch
    matrix = _Matrix(lowering, recurrent[:, :split], offset[:split])
    last = None if a.reset_after else _Matrix(lowering, recurrent[:, split:], offset[split:])
    text = print_gru_step(size, pitch, reset_after=a.reset_after, lanes=lanes)
    hidden = states[0].place
    for t, row in rows:
        from_x, from_h = gates.moved(t * gates.strides[0]).place, program.dense((split,)).place
        matrix(hidden, from_h)
        if last is None:
            program.call(text, from_x, from_h, hidden, row)
        else:
            kept, new = program.dense((pitch,)).place, program.dense((pitch,)).place
            program.call(print_reset(size, lanes=lanes), from_x, from_h, hidden, kept)
            last(kept, new)
            program.call(text, from_x, from_h, new, hidden, row)
        hidden = row
