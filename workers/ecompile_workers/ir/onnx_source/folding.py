"""Operators on constants, computed at import for both batch sizes by onnx's reference implementation (numpy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ..importing.values import AnyArray, Constant, Unsupported, bounded
from ..operators.spec import product

ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "And", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater",
        "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or",
        "Pow", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
    }
)  # fmt: skip
MOVING = frozenset(
    {
        "ArgMax", "ArgMin", "Cast", "CastLike", "Concat", "CumSum", "Flatten", "Gather", "GatherElements",
        "GatherND", "Identity", "NonZero", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Trilu", "Unsqueeze",
    }
)  # fmt: skip
NETWORK = frozenset({"Gemm", "LayerNormalization", "LeakyRelu", "MatMul", "Relu", "Softmax"})
"""On constant states, as in the first step of an unrolled cell."""
MAKING = frozenset({"ConstantOfShape", "Expand", "Range", "Tile"})
"""Their output may be far larger than their inputs."""
FOLDABLE = ELEMENTWISE | MOVING | NETWORK | MAKING


def fold(node: onnx.NodeProto, operands: Sequence[Constant | None], opset: int) -> list[Constant]:
    """Outputs of a node whose operands are all constant.

    Raises Unsupported where the operator is not one that folds, ModelError where the result would be huge.
    """
    if node.op_type not in FOLDABLE or node.domain not in ("", "ai.onnx"):
        raise Unsupported("not folded")
    first = _run(node, [None if o is None else o.first for o in operands], opset)
    if all(o is None or o.first is o.second for o in operands):
        return [Constant(first=value, second=value) for value in first]
    second = _run(node, [None if o is None else o.second for o in operands], opset)
    return [Constant(first=a, second=b) for a, b in zip(first, second, strict=True)]


def _run(node: onnx.NodeProto, operands: Sequence[AnyArray | None], opset: int) -> list[AnyArray]:
    _bound(node.op_type, [o for o in operands if o is not None])
    feeds: dict[str, Any] = {name: o for name, o in zip(node.input, operands, strict=True) if o is not None}
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_value_info(name, onnx.TypeProto()) for name in feeds],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]
    except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise Unsupported(f"cannot be folded: {error}") from error


def _bound(operator: str, operands: Sequence[AnyArray]) -> None:
    """Refuse results that are too large before they are made."""
    shapes = [o.shape for o in operands]
    match operator:
        case "ConstantOfShape":
            bounded(operands[0].reshape(-1).tolist())
        case "Expand":
            _broadcast([shapes[0], tuple(operands[1].reshape(-1).tolist())])
        case "Range":
            start, limit, delta = (float(o.reshape(-1)[0]) for o in operands)
            if delta == 0 or not np.isfinite([start, limit, delta]).all():
                raise Unsupported("a range without end")
            bounded([max(0, int(np.ceil((limit - start) / delta)))])
        case "Tile":
            repeats = operands[1].reshape(-1).tolist()
            bounded([product(shapes[0]) * product([int(r) for r in repeats])])
        case "Gather" | "GatherElements" | "GatherND":
            # Any axis: as if the smallest one were replaced.
            bounded([product(shapes[0]) // max(1, min(shapes[0], default=1)) * product(shapes[1])])
        case "Gemm" | "MatMul":
            bounded([product(s) // max(1, min(s, default=1)) for s in shapes[:2]])
        case _ if operator in ELEMENTWISE:
            _broadcast(shapes)


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> None:
    try:
        bounded(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise Unsupported("shapes do not broadcast") from error
