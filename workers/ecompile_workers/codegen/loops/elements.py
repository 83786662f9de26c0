"""Operators on single elements as expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.attributes import Bounds, Cast, Gelu, GeluForm, Line, Slope
from ...ir.graph import DType, Node, Op
from ..lowering.base import Unsupported
from ..steps import affine
from .nest import Expression, Function, add, call, div, mul, sigmoid, sub
from .program import Loops, at

SIMPLE = {
    Op.NEG: Function.NEG,
    Op.ABS: Function.ABS,
    Op.SQRT: Function.SQRT,
    Op.EXP: Function.EXP,
    Op.LOG: Function.LOG,
    Op.ERF: Function.ERF,
    Op.TANH: Function.TANH,
    Op.ADD: Function.ADD,
    Op.SUB: Function.SUB,
    Op.MUL: Function.MUL,
    Op.DIV: Function.DIV,
    Op.POW: Function.POW,
    Op.MINIMUM: Function.MIN,
    Op.MAXIMUM: Function.MAX,
    Op.EQUAL: Function.EQUAL,
    Op.LESS: Function.LESS,
    Op.LESS_OR_EQUAL: Function.LESS_OR_EQUAL,
}


def clip(x: Expression, lower: float, upper: float) -> Expression:
    """Not-a-number stays."""
    x = call(Function.SELECT, call(Function.LESS, x, lower), lower, x)
    return call(Function.SELECT, call(Function.LESS, upper, x), upper, x)


def truth(x: Expression) -> Expression:
    """1 where x is not 0, else 0."""
    return sub(1.0, call(Function.EQUAL, x, 0.0))


def gelu(x: Expression, form: GeluForm) -> Expression:
    if form is GeluForm.ERF:
        inner: Expression = call(Function.ERF, mul(x, math.sqrt(0.5)))
    else:
        cubed = mul(mul(x, x), x)
        inner = call(Function.TANH, mul(math.sqrt(2 / math.pi), add(x, mul(0.044715, cubed))))
    return mul(mul(0.5, x), add(1.0, inner))


OTHERS: dict[Op, Callable[..., Expression]] = {
    Op.RELU: lambda x: call(Function.SELECT, call(Function.LESS, x, 0.0), 0.0, x),
    Op.SIGMOID: sigmoid,
    Op.SILU: lambda x: mul(x, sigmoid(x)),
    Op.HARD_SWISH: lambda x: mul(x, clip(add(div(x, 6.0), 0.5), 0.0, 1.0)),
    Op.NOT: lambda x: call(Function.EQUAL, x, 0.0),
    Op.GREATER: lambda a, b: call(Function.LESS, b, a),
    Op.GREATER_OR_EQUAL: lambda a, b: call(Function.LESS_OR_EQUAL, b, a),
    Op.AND: lambda a, b: mul(truth(a), truth(b)),
    Op.OR: lambda a, b: call(Function.MAX, truth(a), truth(b)),
    Op.WHERE: lambda c, a, b: call(Function.SELECT, c, a, b),
}


def expression(node: Node, x: Sequence[Expression]) -> Expression:
    """Raises Unsupported where the operator does not work on single elements."""
    if node.op in SIMPLE:
        return call(SIMPLE[node.op], *x)
    if node.op in OTHERS:
        return OTHERS[node.op](*x)
    match node.attributes:
        case Slope(slope=slope):
            return call(Function.SELECT, call(Function.LESS, x[0], 0.0), mul(x[0], slope), x[0])
        case Gelu(form=form):
            return gelu(x[0], form)
        case Bounds(lower=lower, upper=upper):
            return clip(x[0], lower, upper)
        case Line(alpha=alpha, beta=beta):
            return clip(add(mul(x[0], alpha), beta), 0.0, 1.0)
        case Cast(to=DType.FLOAT32):
            return x[0]
        case Cast(to=DType.BOOL):
            return truth(x[0])
        case Cast(to=DType.INT64):
            return call(Function.TRUNC, x[0])
    raise Unsupported(node.op.value)


def elementwise(loops: Loops, node: Node) -> None:
    shape = node.output.shape
    target = loops.fresh(shape)
    if node.op is Op.BATCH_NORM and (line := affine(node)) is not None:
        a, b = (loops.constant(part.astype(np.float32)) for part in line)
        x = at(loops.operand(node.inputs[0]), shape)
        loops.put(target, add(mul(x, at(a, shape)), at(b, shape)))
    else:
        operands = [at(loops.operand(operand), shape) for operand in node.operands]
        loops.put(target, expression(node, operands))
    loops.tensors[node.output.name] = target
