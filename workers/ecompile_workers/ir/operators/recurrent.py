"""LSTM and GRU layers; a cell is a layer that reads one step.

Operands: x [steps, inputs], weight [directions, gates * hidden, inputs], recurrent [directions, gates * hidden,
hidden], bias and recurrent_bias [directions, gates * hidden], hidden (and cell) [directions, hidden], the states before
the first step. Output: [steps, directions * hidden], the forward direction first; position t of the reverse direction
is its state after reading steps from the last down to t. Or, for Emit.CELL, the last cell states [directions, hidden].
Gates are in PyTorch's order: LSTM input, forget, cell, output; GRU reset, update, new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..attributes import Direction, Emit, Recurrent
from ..op import Op
from .elementwise import sigmoid
from .spec import Operator, Shape, ShapeError, Values, product

LSTM_GATES = 4
GRU_GATES = 3


def directions(a: Recurrent) -> int:
    return 2 if a.direction is Direction.BOTH else 1


def _shape(a: Recurrent, shapes: Sequence[Shape], *, gates: int) -> Shape:
    x, weight, recurrent, bias, recurrent_bias, *states = shapes
    if len(x) != 2 or len(recurrent) != 3:
        raise ShapeError(f"a recurrent layer takes [steps, inputs], not {x}")
    count, hidden = directions(a), recurrent[2]
    expected = [(count, gates * hidden, x[1]), (count, gates * hidden, hidden), *[(count, gates * hidden)] * 2]
    if [weight, recurrent, bias, recurrent_bias] != expected or any(s != (count, hidden) for s in states):
        raise ShapeError(f"input {x}, weights {weight}, {recurrent}, biases and states {states} do not fit")
    return (count, hidden) if a.emit is Emit.CELL else (x[0], count * hidden)


def _macs(a: Recurrent, shapes: Sequence[Shape], output: Shape) -> int:
    return shapes[0][0] * (product(shapes[1]) + product(shapes[2]))


def _steps(a: Recurrent, x: Values) -> Iterator[tuple[int, Sequence[int]]]:
    """(direction, order of the steps)."""
    order = range(x.shape[1])
    if a.direction is not Direction.REVERSE:
        yield 0, order
    if a.direction is not Direction.FORWARD:
        yield directions(a) - 1, order[::-1]


def _state(state: Values, direction: int, rows: int) -> Values:
    return np.broadcast_to(state[:, direction], (rows, state.shape[2]))


def _lstm(
    a: Recurrent,
    x: Values,
    weight: Values,
    recurrent: Values,
    bias: Values,
    recurrent_bias: Values,
    hidden: Values,
    cell: Values,
) -> Values:
    """i, f, o = sigma(W x + b + R h + d), g = tanh(the same), c' = f c + i g, h' = o tanh(c') (torch.nn.LSTM)."""
    rows, size = x.shape[0], recurrent.shape[3]
    y = np.empty((rows, x.shape[1], directions(a) * size))
    cells = np.empty((rows, directions(a), size))
    for d, order in _steps(a, x):
        h, c = _state(hidden, d, rows), _state(cell, d, rows)
        for t in order:
            gates = x[:, t] @ weight[0, d].T + bias[0, d] + h @ recurrent[0, d].T + recurrent_bias[0, d]
            i, f, g, o = np.split(gates, LSTM_GATES, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            y[:, t, d * size : (d + 1) * size] = h
        cells[:, d] = c
    return cells if a.emit is Emit.CELL else y


def _gru(
    a: Recurrent, x: Values, weight: Values, recurrent: Values, bias: Values, recurrent_bias: Values, hidden: Values
) -> Values:
    """r, z = sigma(W x + b + R h + d), h' = (1 - z) n + z h (torch.nn.GRU; ONNX GRU with linear_before_reset).

    n = tanh(W x + b + r (R h + d)) with `reset_after`, else tanh(W x + b + R (r h) + d).
    """
    rows, size = x.shape[0], recurrent.shape[3]
    y = np.empty((rows, x.shape[1], directions(a) * size))
    for d, order in _steps(a, x):
        h = _state(hidden, d, rows)
        matrix, offset = recurrent[0, d].T, recurrent_bias[0, d]
        for t in order:
            from_x = np.split(x[:, t] @ weight[0, d].T + bias[0, d], GRU_GATES, axis=1)
            from_h = np.split(h @ matrix + offset, GRU_GATES, axis=1)
            r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
            if a.reset_after:
                n = np.tanh(from_x[2] + r * from_h[2])
            else:
                n = np.tanh(from_x[2] + (r * h) @ matrix[:, 2 * size :] + offset[2 * size :])
            h = (1.0 - z) * n + z * h
            y[:, t, d * size : (d + 1) * size] = h
    return y


def _layer(operands: tuple[str, ...], gates: int, evaluate: Callable[..., Values]) -> Operator[Recurrent]:
    return Operator(
        operands=("x", "weight", "recurrent", "bias", "recurrent_bias", *operands),
        attributes=Recurrent,
        shape=partial(_shape, gates=gates),
        evaluate=evaluate,
        macs=_macs,
    )


TABLE: dict[Op, Operator[Any]] = {
    Op.LSTM: _layer(("hidden", "cell"), LSTM_GATES, _lstm),
    Op.GRU: _layer(("hidden",), GRU_GATES, _gru),
}
