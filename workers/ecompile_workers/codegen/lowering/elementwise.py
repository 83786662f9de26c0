"""Operators on single elements."""

from __future__ import annotations

import numpy as np

from ...ir.attributes import Cast
from ...ir.graph import DType, Node, Op
from ..steps import BINARY, Step, affine, unary
from .base import Lowering, Unsupported

CASTS = {DType.FLOAT32: "{0}", DType.INT64: "e_trunc({0})", DType.BOOL: "e_truth({0} != 0.0f)"}


def lower_elementwise(lowering: Lowering, step: Step) -> None:
    node = step.node
    expression, operands = _expression(node)
    views = [lowering.operand(operand) for operand in operands]
    shape = lowering.shape(step.output)
    like = next((view for view in views if view.shape == shape), None)
    target = lowering.result(step.output, like=like)
    lowering.map(step.activation.replace("{0}", expression) if step.activation != "{0}" else expression, views, target)
    lowering.views[step.output.name] = target


def _expression(node: Node) -> tuple[str, list[str | np.ndarray]]:
    """Over `{0}`, `{1}`, ..., and the operands."""
    if (found := unary(node)) is not None:
        return found, list(node.inputs[:1])
    if node.op is Op.CAST:
        assert isinstance(node.attributes, Cast)
        return CASTS[node.attributes.to], list(node.inputs)
    if node.op is Op.WHERE:
        return "e_select({0} != 0.0f, {1}, {2})", list(node.operands)
    if node.op is Op.BATCH_NORM and (line := affine(node)) is not None:
        return "({0} * {1} + {2})", [node.inputs[0], *(part.astype(np.float32) for part in line)]
    if node.op in BINARY:
        return BINARY[node.op], list(node.operands)
    raise Unsupported(node.op.value)
