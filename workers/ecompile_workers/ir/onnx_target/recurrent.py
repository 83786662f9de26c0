"""LSTM and GRU layers in ONNX, which reads [steps, rows, inputs] and orders its gates otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attributes import Direction, Emit, Recurrent
from ..graph import Array, Node, Op
from ..operators.recurrent import directions
from .writer import Emitter, Writer

GATES = {Op.LSTM: [0, 3, 1, 2], Op.GRU: [1, 0, 2]}
"""ONNX's gates in terms of ours: LSTM input, output, forget, cell; GRU update, reset, new."""
DIRECTIONS = {Direction.FORWARD: "forward", Direction.REVERSE: "reverse", Direction.BOTH: "bidirectional"}


def layer(writer: Writer, node: Node) -> None:
    """Y [steps, directions, rows, hidden] becomes [rows, steps, directions * hidden]; Y_c loses its order."""
    assert isinstance(node.attributes, Recurrent)
    a = node.attributes
    x, *parameters = node.operands
    assert isinstance(x, str)
    weight, recurrent, bias, recurrent_bias = (_reordered(_array(p), GATES[node.op]) for p in parameters[:4])
    hidden = recurrent.shape[2]
    names = [
        writer.add(node, "Transpose", [x], perm=[1, 0, 2]),
        *(writer.constant(node, w) for w in (weight, recurrent, np.concatenate([bias, recurrent_bias], axis=1))),
        "",
        *(_state(writer, node, state, x) for state in parameters[4:]),
    ]
    outputs = [writer.name(node.output.name) for _ in range(3 if node.op is Op.LSTM else 2)]
    settings = {"linear_before_reset": int(a.reset_after)} if node.op is Op.GRU else {}
    writer.many(node.op.name, names, outputs, hidden_size=hidden, direction=DIRECTIONS[a.direction], **settings)
    if a.emit is Emit.CELL:
        writer.add(node, "Transpose", [outputs[2]], last=True, perm=[1, 0, 2])
        return
    turned = writer.add(node, "Transpose", [outputs[0]], perm=[2, 0, 1, 3])
    shape = writer.integers(node, [0, node.output.shape[0], directions(a) * hidden])
    writer.add(node, "Reshape", [turned, shape], last=True)


def _array(operand: str | Array) -> Array:
    if isinstance(operand, str):
        raise ValueError("weights of a recurrent layer that are computed have no ONNX form here")
    return operand


def _reordered(weights: Array, gates: Sequence[int]) -> Array:
    blocks = np.split(weights, len(gates), axis=1)
    return np.concatenate([blocks[g] for g in gates], axis=1)


def _state(writer: Writer, node: Node, state: str | Array, x: str) -> str:
    """[directions, rows, hidden]; empty for zeros."""
    if isinstance(state, str):
        return writer.add(node, "Transpose", [state], perm=[1, 0, 2])
    if not state.any():
        return ""
    repeated = writer.repeated(node, writer.constant(node, state), state.shape, x)
    return writer.add(node, "Transpose", [repeated], perm=[1, 0, 2])


EMITTERS: dict[Op, Emitter] = {Op.LSTM: layer, Op.GRU: layer}
