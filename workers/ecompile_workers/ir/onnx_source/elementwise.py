"""ONNX operators on single elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from ..attributes import NOTHING, Attributes, Bounds, Cast, Gelu, GeluForm, Line, Slope
from ..graph import DType, Op
from ..importing import compounds
from ..importing.values import Constant, Flow, Unsupported, Value, fixed
from .call import Call, Converter

DTYPES: dict[int, DType] = {
    onnx.TensorProto.FLOAT: DType.FLOAT32,
    onnx.TensorProto.INT64: DType.INT64,
    onnx.TensorProto.INT32: DType.INT64,
    onnx.TensorProto.BOOL: DType.BOOL,
}
"""int32 is kept as int64: the same numbers as long as nothing overflows."""


def type_name(number: int) -> str:
    """An element type for messages."""
    known = onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(number).lower() if number in known else f"of the unknown type {number}"


def unary(call: Call, *, op: Op, attributes: Callable[[Call], Attributes] = lambda call: NOTHING) -> Value:
    return call.builder.emit(op, [call.flow()], attributes(call))


def binary(call: Call, *, op: Op) -> Value:
    a, b = call.value(0), call.value(1)
    integers = [v for v in (a, b) if isinstance(v, Flow) and v.tensor.dtype is not DType.FLOAT32]
    if integers and op in (Op.DIV, Op.POW):
        raise Unsupported("divides or raises integers")
    return call.builder.broadcast(op, a, b)


def variadic(call: Call, *, op: Op) -> Value:
    result = call.value(0)
    for index in range(1, len(call.operands)):
        result = call.builder.broadcast(op, result, call.value(index))
    return result


def mean(call: Call) -> Value:
    return call.builder.broadcast(Op.DIV, variadic(call, op=Op.ADD), fixed(np.float32(len(call.operands))))


def where(call: Call) -> Value:
    return call.builder.broadcast(Op.WHERE, *(call.value(i) for i in range(3)))


def clip(call: Call) -> Value:
    """Bounds are attributes before opset 11."""
    ends = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        operand = call.operand(index)
        if isinstance(operand, Flow):
            raise Unsupported("bounds that are computed")
        ends.append(call.number(name, default) if operand is None else operand.scalar)
    return call.builder.emit(Op.CLIP, [call.flow()], Bounds(lower=ends[0], upper=ends[1]))


def cast(call: Call) -> Value:
    to = DTYPES.get(call.integer("to", 0))
    x = call.flow()
    if to is None:
        raise Unsupported(f"converts to {type_name(call.integer('to', 0))}; only float32 and integers are supported")
    return x if to is x.tensor.dtype else call.builder.emit(Op.CAST, [x], Cast(to=to))


def reciprocal(call: Call) -> Value:
    return call.builder.broadcast(Op.DIV, fixed(np.float32(1)), call.flow())


def elu(call: Call) -> Value:
    return compounds.elu(call.builder, call.flow(), alpha=call.number("alpha", 1.0))


def selu(call: Call) -> Value:
    alpha, scale = call.number("alpha", compounds.SELU_ALPHA), call.number("gamma", compounds.SELU_SCALE)
    return compounds.elu(call.builder, call.flow(), alpha=alpha, scale=scale)


def celu(call: Call) -> Value:
    alpha = call.number("alpha", 1.0)
    if alpha == 0.0:
        raise Unsupported("alpha is 0")
    return compounds.elu(call.builder, call.flow(), alpha=alpha, rate=1.0 / alpha)


def gelu(call: Call) -> Value:
    return call.builder.emit(Op.GELU, [call.flow()], Gelu(form=GeluForm(_gelu_form(call))))


def _gelu_form(call: Call) -> GeluForm:
    return GeluForm.TANH if call.text("approximate", "none") == "tanh" else GeluForm.ERF


def passed(call: Call) -> Value:
    """Identity, and dropout outside of training."""
    training = call.operand(2)
    if training is not None and (not isinstance(training, Constant) or training.fixed.any()):
        raise Unsupported("training mode")
    return call.value(0)


UNARY = {
    "Relu": Op.RELU, "Sigmoid": Op.SIGMOID, "Tanh": Op.TANH, "Neg": Op.NEG, "Abs": Op.ABS, "Sqrt": Op.SQRT,
    "Exp": Op.EXP, "Log": Op.LOG, "Erf": Op.ERF, "Not": Op.NOT, "HardSwish": Op.HARD_SWISH,
}  # fmt: skip
BINARY = {
    "Add": Op.ADD, "Sub": Op.SUB, "Mul": Op.MUL, "Div": Op.DIV, "Pow": Op.POW, "Equal": Op.EQUAL, "Less": Op.LESS,
    "LessOrEqual": Op.LESS_OR_EQUAL, "Greater": Op.GREATER, "GreaterOrEqual": Op.GREATER_OR_EQUAL, "And": Op.AND,
    "Or": Op.OR,
}  # fmt: skip
VARIADIC = {"Sum": Op.ADD, "Max": Op.MAXIMUM, "Min": Op.MINIMUM}

CONVERTERS: dict[str, Converter] = {
    **{name: partial(unary, op=op) for name, op in UNARY.items()},
    **{name: partial(binary, op=op) for name, op in BINARY.items()},
    **{name: partial(variadic, op=op) for name, op in VARIADIC.items()},
    "LeakyRelu": partial(unary, op=Op.LEAKY_RELU, attributes=lambda call: Slope(slope=call.number("alpha", 0.01))),
    "HardSigmoid": partial(
        unary,
        op=Op.HARD_SIGMOID,
        attributes=lambda call: Line(alpha=call.number("alpha", 0.2), beta=call.number("beta", 0.5)),
    ),
    "Mean": mean,
    "Where": where,
    "Clip": clip,
    "Cast": cast,
    "Reciprocal": reciprocal,
    "Elu": elu,
    "Selu": selu,
    "Celu": celu,
    "PRelu": lambda call: compounds.prelu(call.builder, call.flow(), call.value(1)),
    "Softplus": lambda call: compounds.softplus(call.builder, call.flow()),
    "Softsign": lambda call: compounds.softsign(call.builder, call.flow()),
    "Mish": lambda call: compounds.mish(call.builder, call.flow()),
    "Gelu": gelu,
    "Identity": passed,
    "Dropout": passed,
}
