"""ATen operators on single elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..attributes import NOTHING, Attributes, Bounds, Cast, Gelu, GeluForm, Slope
from ..graph import DType, Op
from ..importing import compounds
from ..importing.values import Constant, Flow, Unsupported, Value, fixed
from .call import Call, Converter
from .program import DTYPES, SCALAR_TYPES


def unary(call: Call, *, op: Op, attributes: Callable[[Call], Attributes] = lambda call: NOTHING) -> Value:
    return call.builder.emit(op, [_floating(call, call.flow())], attributes(call))


def _floating(call: Call, x: Flow) -> Flow:
    """Functions of integers are computed in float32."""
    if x.tensor.dtype is DType.FLOAT32 or call.target.startswith(("neg", "abs", "logical", "bitwise")):
        return x
    return call.builder.emit(Op.CAST, [x], Cast(to=DType.FLOAT32))


def _promoted(call: Call, *values: Value) -> list[Value]:
    """Integers beside floats become floats, as in PyTorch."""
    dtypes = [v.tensor.dtype for v in values if isinstance(v, Flow)]
    constants = [v.first.dtype.kind for v in values if isinstance(v, Constant)]
    if DType.FLOAT32 not in dtypes and "f" not in constants:
        return list(values)
    to = Cast(to=DType.FLOAT32)
    return [
        call.builder.emit(Op.CAST, [v], to) if isinstance(v, Flow) and v.tensor.dtype is not DType.FLOAT32 else v
        for v in values
    ]


def binary(call: Call, *, op: Op, first: str = "self", second: str = "other") -> Value:
    """first op alpha * second."""
    a, b = _promoted(call, call.value(first), call.value(second))
    if call.get("rounding_mode") is not None:
        raise Unsupported("rounds the quotient")
    whole = [v for v in (a, b) if isinstance(v, Flow) and v.tensor.dtype is not DType.FLOAT32]
    if whole and op in (Op.DIV, Op.POW):
        raise Unsupported("divides or raises integers")
    if call.number("alpha", 1.0) != 1.0:
        b = _scaled(call, b, fixed(np.float32(call.number("alpha"))))
    return call.builder.broadcast(op, a, b)


def _scaled(call: Call, value: Value, factor: Constant) -> Value:
    if isinstance(value, Constant):
        return fixed((value.fixed * factor.first).astype(np.float32))
    return call.builder.broadcast(Op.MUL, value, factor)


def not_equal(call: Call) -> Value:
    equal = binary(call, op=Op.EQUAL)
    assert isinstance(equal, Flow)
    return call.builder.emit(Op.NOT, [equal])


def squared(call: Call) -> Value:
    return call.builder.broadcast(Op.MUL, call.flow(), call.flow())


def inverse_root(call: Call) -> Value:
    return call.builder.broadcast(Op.DIV, compounds.ONE, call.builder.emit(Op.SQRT, [call.flow()]))


def reciprocal(call: Call) -> Value:
    return call.builder.broadcast(Op.DIV, compounds.ONE, call.flow())


def softplus(call: Call) -> Value:
    """Where `beta x` exceeds `threshold`, PyTorch returns x, which is the same in float32."""
    if call.number("beta", 1.0) != 1.0:
        raise Unsupported("another beta than 1")
    return compounds.softplus(call.builder, call.flow())


def elu(call: Call) -> Value:
    return compounds.elu(
        call.builder,
        call.flow(),
        alpha=call.number("alpha", 1.0),
        scale=call.number("scale", 1.0),
        rate=call.number("input_scale", 1.0),
    )


def selu(call: Call) -> Value:
    return compounds.elu(call.builder, call.flow(), alpha=compounds.SELU_ALPHA, scale=compounds.SELU_SCALE)


def celu(call: Call) -> Value:
    alpha = call.number("alpha", 1.0)
    return compounds.elu(call.builder, call.flow(), alpha=alpha, rate=1.0 / alpha)


def prelu(call: Call) -> Value:
    """Slopes are per channel, the second axis."""
    x, slope = call.flow(), call.weight("weight")
    wide = slope.reshape(-1, *(1,) * max(0, x.rank - 2)) if slope.size > 1 else slope
    return compounds.prelu(call.builder, x, fixed(wide))


def clamp(call: Call, *, lower: str = "min", upper: str = "max", defaults: tuple[float, float] | None = None) -> Value:
    low, high = defaults or (-np.inf, np.inf)
    if isinstance(call.get(lower), Flow) or isinstance(call.get(upper), Flow):
        raise Unsupported("bounds that are computed")
    bounds = Bounds(lower=call.number(lower, low), upper=call.number(upper, high))
    return call.builder.emit(Op.CLIP, [call.flow()], bounds)


def where(call: Call) -> Value:
    a, b = _promoted(call, call.value("self"), call.value("other"))
    return call.builder.broadcast(Op.WHERE, call.value("condition"), a, b)


def masked_fill(call: Call) -> Value:
    return call.builder.broadcast(Op.WHERE, call.value("mask"), call.value("value"), call.flow())


def cast(call: Call) -> Value:
    """To `dtype`, or that of `other`; other settings (device, memory format) change nothing."""
    x, told, other = call.flow(), call.get("dtype"), call.get("other")
    if isinstance(other, Flow):
        to: DType | None = other.tensor.dtype
    elif told is None:
        return x
    else:
        to = DTYPES.get(int(told))
    if to is None:
        kind = SCALAR_TYPES.get(int(told or 0))
        raise Unsupported(f"converts to {kind.__name__ if kind else 'an unknown type'}; only float32 is supported")
    return x if to is x.tensor.dtype else call.builder.emit(Op.CAST, [x], Cast(to=to))


def passed(call: Call) -> Value:
    """What changes nothing in values: copies, layouts in memory, dropout outside of training."""
    if call.flag("train"):
        raise Unsupported("training mode")
    return call.value("self" if call.get("self") is not None else "input")


def _gelu(call: Call) -> Gelu:
    return Gelu(form=GeluForm.TANH if call.get("approximate", "none") == "tanh" else GeluForm.ERF)


UNARY = {
    "relu": Op.RELU, "sigmoid": Op.SIGMOID, "tanh": Op.TANH, "silu": Op.SILU, "hardsigmoid": Op.HARD_SIGMOID,
    "hardswish": Op.HARD_SWISH, "neg": Op.NEG, "abs": Op.ABS, "sqrt": Op.SQRT, "exp": Op.EXP, "log": Op.LOG,
    "erf": Op.ERF, "logical_not": Op.NOT, "bitwise_not": Op.NOT,
}  # fmt: skip
BINARY = {
    "add": Op.ADD, "sub": Op.SUB, "mul": Op.MUL, "div": Op.DIV, "minimum": Op.MINIMUM, "maximum": Op.MAXIMUM,
    "eq": Op.EQUAL, "lt": Op.LESS, "le": Op.LESS_OR_EQUAL, "gt": Op.GREATER, "ge": Op.GREATER_OR_EQUAL,
    "logical_and": Op.AND, "logical_or": Op.OR, "bitwise_and": Op.AND, "bitwise_or": Op.OR, "__and__": Op.AND,
    "__or__": Op.OR,
}  # fmt: skip
PASSED = ("contiguous", "clone", "alias", "detach", "dropout", "feature_dropout", "lift_fresh_copy", "alpha_dropout")

CONVERTERS: dict[str, Converter] = {
    **{name: partial(unary, op=op) for name, op in UNARY.items()},
    **{name: partial(binary, op=op) for name, op in BINARY.items()},
    **dict.fromkeys(PASSED, passed),
    "leaky_relu": partial(
        unary, op=Op.LEAKY_RELU, attributes=lambda call: Slope(slope=call.number("negative_slope", 0.01))
    ),
    "gelu": partial(unary, op=Op.GELU, attributes=_gelu),
    "rsub": partial(binary, op=Op.SUB, first="other", second="self"),
    "pow": partial(binary, op=Op.POW, second="exponent"),
    "ne": not_equal,
    "square": squared,
    "rsqrt": inverse_root,
    "reciprocal": reciprocal,
    "softplus": softplus,
    "prelu": prelu,
    "_prelu_kernel": prelu,
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "mish": lambda call: compounds.mish(call.builder, call.flow()),
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp,
    "hardtanh": partial(clamp, lower="min_val", upper="max_val", defaults=(-1.0, 1.0)),
    "relu6": partial(clamp, defaults=(0.0, 6.0)),
    "where": where,
    "masked_fill": masked_fill,
    "to": cast,
    "_to_copy": cast,
    "type_as": cast,
}
