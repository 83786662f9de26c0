"""From a graph to steps: affine maps folded into matrices, activations and residual sums done before storing.

Folding is done in float64 and rounded once, so it is not exact in float32; equivalence is measured afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..ir.attributes import Bounds, Epsilon, Gelu, GeluForm, Line, Slope
from ..ir.graph import DType, Graph, Node, Op, Tensor
from .kernels.maps import literal

Wide = NDArray[np.float64]
MATRICES = frozenset({Op.GEMM, Op.CONV})
BINARY = {
    Op.ADD: "({0} + {1})",
    Op.SUB: "({0} - {1})",
    Op.MUL: "({0} * {1})",
    Op.DIV: "({0} / {1})",
    Op.MINIMUM: "e_min({0}, {1})",
    Op.MAXIMUM: "e_max({0}, {1})",
    Op.EQUAL: "e_truth({0} == {1})",
    Op.LESS: "e_truth({0} < {1})",
    Op.LESS_OR_EQUAL: "e_truth({0} <= {1})",
    Op.GREATER: "e_truth({0} > {1})",
    Op.GREATER_OR_EQUAL: "e_truth({0} >= {1})",
    Op.AND: "e_truth(({0} != 0.0f) & ({1} != 0.0f))",
    Op.OR: "e_truth(({0} != 0.0f) | ({1} != 0.0f))",
}
UNARY = {
    Op.RELU: "e_relu({0})",
    Op.SIGMOID: "e_sigmoid({0})",
    Op.TANH: "e_tanh({0})",
    Op.SILU: "e_silu({0})",
    Op.HARD_SWISH: "({0} * e_hard_sigmoid({0}, 0.166666672f, 0.5f))",
    Op.NEG: "(-{0})",
    Op.ABS: "e_abs({0})",
    Op.SQRT: "e_sqrt({0})",
    Op.EXP: "e_exp({0})",
    Op.LOG: "e_log({0})",
    Op.ERF: "e_erf({0})",
    Op.NOT: "e_truth({0} == 0.0f)",
}
POWERS = {
    2.0: "({0} * {0})",
    3.0: "({0} * {0} * {0})",
    0.5: "e_sqrt({0})",
    -0.5: "(1.0f / e_sqrt({0}))",
    -1.0: "(1.0f / {0})",
    1.0: "{0}",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator, and what is done to its result before it is stored."""

    node: Node
    residual: str | None = None
    """A tensor of the same shape that is added first."""
    activation: str = "{0}"
    """An expression of vectors."""
    output: Tensor


def unary(node: Node) -> str | None:
    """An operator on single elements of one tensor as an expression; None for other operators."""
    if node.op in UNARY:
        return UNARY[node.op]
    attributes = node.attributes
    match attributes:
        case Slope():
            return f"e_leaky({{0}}, {literal(attributes.slope)})"
        case Gelu():
            return "e_gelu({0})" if attributes.form is GeluForm.ERF else "e_gelu_tanh({0})"
        case Bounds():
            return f"e_clip({{0}}, {literal(attributes.lower)}, {literal(attributes.upper)})"
        case Line() if node.op is Op.HARD_SIGMOID:
            return f"e_hard_sigmoid({{0}}, {literal(attributes.alpha)}, {literal(attributes.beta)})"
    if node.op is Op.POW and "b" in node.constants and node.constants["b"].size == 1:
        return POWERS.get(float(node.constants["b"].reshape(-1)[0]))
    return None


def fold(graph: Graph) -> Graph:
    """The same function with affine maps folded into the matrices next to them."""
    nodes = _folded_backward(_folded_forward(graph.nodes, graph.output), graph.output)
    return replace(graph, nodes=tuple(nodes))


def plan(graph: Graph) -> tuple[Step, ...]:
    """Steps in order of execution. They compute the graph's output."""
    return _fused(fold(graph).nodes, graph.output)


def _uses(nodes: Sequence[Node], output: Tensor) -> Counter[str]:
    return Counter([output.name, *(name for node in nodes for name in node.inputs)])


def affine(node: Node) -> tuple[Wide, Wide] | None:
    """(a, b) of an elementwise a x + b as float64 arrays that broadcast to the output; None for other operators."""
    if node.op is Op.BATCH_NORM and len(node.constants) == 4:
        assert isinstance(node.attributes, Epsilon)
        c = {name: value.astype(np.float64) for name, value in node.constants.items()}
        wide = (-1, *(1,) * (len(node.output.shape) - 1))
        a = (c["gamma"] / np.sqrt(c["variance"] + node.attributes.epsilon)).reshape(wide)
        return a, c["beta"].reshape(wide) - c["mean"].reshape(wide) * a
    if node.op not in (Op.ADD, Op.SUB, Op.MUL, Op.DIV) or len(node.constants) != 1:
        return None
    ((side, constant),) = node.constants.items()
    value = constant.astype(np.float64)
    zero, one = np.zeros_like(value), np.ones_like(value)
    match node.op:
        case Op.ADD:
            return one, value
        case Op.SUB:
            return (-one, value) if side == "a" else (one, -value)
        case Op.MUL:
            return value, zero
        case _:
            return (1.0 / value, zero) if side == "b" and bool((value != 0).all()) else None


def _per_channel(values: Wide, shape: tuple[int, ...], axis: int) -> Wide | None:
    """One number per position of `axis`; None where the values differ along other axes or widen the shape."""
    if values.ndim > len(shape):
        return None
    sizes = (*(1,) * (len(shape) - values.ndim), *values.shape)
    if any(n != 1 for i, n in enumerate(sizes) if i != axis % len(shape)):
        return None
    return np.broadcast_to(values.reshape(-1), (shape[axis],)) if values.size in (1, shape[axis]) else None


def _folded_forward(nodes: Sequence[Node], output: Tensor) -> list[Node]:
    """Affine maps right after a matrix become part of it."""
    uses = _uses(nodes, output)
    found: list[Node] = []
    place: dict[str, int] = {}
    for node in nodes:
        line = affine(node)
        before = place.get(node.inputs[0]) if line is not None else None
        folded = None
        if line is not None and before is not None and uses[node.inputs[0]] == 1:
            folded = _scaled(found[before], node, line)
        if folded is not None and before is not None:
            found[before] = folded
            place[node.output.name] = before
        else:
            place[node.output.name] = len(found)
            found.append(node)
    return found


def _scaled(matrix: Node, node: Node, line: tuple[Wide, Wide]) -> Node | None:
    """A matrix layer followed by a x + b per output channel, as one matrix layer."""
    if matrix.op not in MATRICES or not {"weight", "bias"} <= matrix.constants.keys():
        return None
    shape = matrix.output.shape
    if node.output.shape != shape:
        return None
    axis = len(shape) - 1 if matrix.op is Op.GEMM else 0
    a, b = _per_channel(line[0], shape, axis), _per_channel(line[1], shape, axis)
    if a is None or b is None:
        return None
    weight = matrix.constants["weight"].astype(np.float64)
    wide = a if matrix.op is Op.GEMM else a.reshape(-1, *(1,) * (weight.ndim - 1))
    bias = matrix.constants["bias"].astype(np.float64) * a + b
    constants = {"weight": (weight * wide).astype(np.float32), "bias": bias.astype(np.float32)}
    return replace(matrix, constants={**matrix.constants, **constants}, output=node.output)


def _folded_backward(nodes: Sequence[Node], output: Tensor) -> list[Node]:
    """Affine maps right before a matrix become part of it."""
    uses = _uses(nodes, output)
    made = {node.output.name: node for node in nodes}
    found: list[Node] = []
    dropped: set[str] = set()
    for node in nodes:
        before = made.get(node.inputs[0]) if node.op is Op.GEMM and node.inputs else None
        line = affine(before) if before is not None and uses[before.output.name] == 1 else None
        if before is not None and line is not None and "weight" in node.constants and "bias" in node.constants:
            shape = before.output.shape
            a, b = _per_channel(line[0], shape, len(shape) - 1), _per_channel(line[1], shape, len(shape) - 1)
            if a is not None and b is not None:
                weight = node.constants["weight"].astype(np.float64)
                bias = node.constants["bias"].astype(np.float64) + b @ weight
                constants = {"weight": (weight * a[:, None]).astype(np.float32), "bias": bias.astype(np.float32)}
                node = replace(node, inputs=before.inputs, constants={**node.constants, **constants})
                dropped.add(before.output.name)
        found.append(node)
    return [node for node in found if node.output.name not in dropped]


def _fused(nodes: Sequence[Node], output: Tensor) -> tuple[Step, ...]:
    """Residual sums and activations after a step join it, where nobody else reads what lies between."""
    uses = _uses(nodes, output)
    position = {node.output.name: index for index, node in enumerate(nodes)}
    reader: dict[str, Node] = {name: node for node in nodes for name in node.inputs}
    taken: set[str] = set()
    steps = []
    for index, node in enumerate(nodes):
        if node.output.name in taken:
            continue
        result, residual, activation = node.output, None, "{0}"
        if _fusable(node):
            following = reader.get(result.name) if uses[result.name] == 1 else None
            other = _other(following, result) if node.op in MATRICES else None
            if following is not None and other is not None and position.get(other, -1) < index:
                result, residual = following.output, other
                taken.add(result.name)
                following = reader.get(result.name) if uses[result.name] == 1 else None
            expression = unary(following) if following is not None else None
            if following is not None and expression is not None and following.output.dtype is DType.FLOAT32:
                result, activation = following.output, expression
                taken.add(result.name)
        steps.append(Step(node=node, residual=residual, activation=activation, output=result))
    return tuple(steps)


def _fusable(node: Node) -> bool:
    """Whether the operator's code takes an expression to apply before storing."""
    return node.op in MATRICES or node.op in BINARY or unary(node) is not None or affine(node) is not None


def _other(node: Node | None, tensor: Tensor) -> str | None:
    """What a sum adds to a tensor, where both are of one shape."""
    if node is None or node.op is not Op.ADD or len(node.inputs) != 2 or node.output.shape != tensor.shape:
        return None
    first, second = node.inputs
    other = second if first == tensor.name else first
    return other if other != tensor.name else None
