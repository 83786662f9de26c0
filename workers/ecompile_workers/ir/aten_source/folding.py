"""ATen operators on constants, computed at import in numpy for both batch sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..importing.values import AnyArray, Constant, Unsupported, bounded
from .program import SCALAR_TYPES

Arguments = Mapping[str, Any]


def fold(name: str, arguments: Arguments) -> Constant | tuple[Constant, ...]:
    """The result of a call whose arguments are all constant.

    Raises Unsupported where the operator is not one that folds, ModelError where the result would be huge.
    """
    if name not in FOLDS:
        raise Unsupported("not folded")
    try:
        with np.errstate(all="ignore"):
            first = _typed(FOLDS[name](_probe(arguments, "first")), arguments)
            second = _typed(FOLDS[name](_probe(arguments, "second")), arguments) if _varies(arguments) else first
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise Unsupported(f"cannot be folded: {error!r}") from error
    if isinstance(first, tuple):
        return tuple(Constant(first=a, second=b) for a, b in zip(first, second, strict=True))
    return Constant(first=first, second=second)


def _varies(argument: Any) -> bool:
    """Whether anything in it depends on the batch."""
    if isinstance(argument, Constant):
        return argument.first is not argument.second
    if isinstance(argument, Mapping):
        return any(_varies(v) for v in argument.values())
    return isinstance(argument, tuple) and any(_varies(v) for v in argument)


def _probe(argument: Any, which: str) -> Any:
    if isinstance(argument, Constant):
        return getattr(argument, which)
    if isinstance(argument, tuple):
        return tuple(_probe(a, which) for a in argument)
    return {k: _probe(v, which) for k, v in argument.items()} if isinstance(argument, Mapping) else argument


def _typed(result: Any, arguments: Arguments) -> Any:
    """float32 where numpy made float64 out of other types, as PyTorch does."""
    if isinstance(result, tuple | list):
        return tuple(_typed(r, arguments) for r in result)
    value = np.asarray(result)
    doubles = any(isinstance(a, Constant) and a.first.dtype == np.float64 for a in arguments.values())
    wanted = arguments.get("dtype")
    if value.dtype == np.float64 and not doubles and SCALAR_TYPES.get(int(wanted or 0)) is not np.float64:
        return value.astype(np.float32)
    return value


def _dtype(a: Arguments, default: type[np.generic] | None = np.float32) -> type[np.generic] | None:
    code = a.get("dtype")
    if code is None:
        return default
    if code not in SCALAR_TYPES:
        raise ValueError("an unknown element type")
    return SCALAR_TYPES[code]


def _sizes(value: Any) -> tuple[int, ...]:
    return bounded([int(v) for v in (value if isinstance(value, tuple) else (value,))])


def _arange(a: Arguments) -> AnyArray:
    start, stop, step = a.get("start", 0), a.get("end"), a.get("step", 1)
    assert stop is not None
    whole = all(isinstance(v, int) or np.asarray(v).dtype.kind == "i" for v in (start, stop, step))
    bounded([max(0, int(np.ceil((float(stop) - float(start)) / float(step))))])
    return np.arange(start, stop, step).astype(_dtype(a, np.int64 if whole else np.float32))


def _expand(a: Arguments) -> AnyArray:
    x, target = np.asarray(a["self"]), [int(v) for v in a["size"]]
    wide = x.reshape((1,) * (len(target) - x.ndim) + x.shape)
    shape = bounded([n if t == -1 else t for n, t in zip(wide.shape, target, strict=True)])
    return np.broadcast_to(wide, shape)


def _slice(a: Arguments) -> AnyArray:
    x = np.asarray(a["self"])
    ranges = [slice(None)] * x.ndim
    ranges[a.get("dim", 0)] = slice(a.get("start"), a.get("end"), a.get("step", 1))
    return x[tuple(ranges)]


def _to(a: Arguments) -> AnyArray:
    x = np.asarray(a["self"])
    if "other" in a:
        return x.astype(np.asarray(a["other"]).dtype)
    return x.astype(_dtype(a, x.dtype.type))


def _squeeze(a: Arguments) -> AnyArray:
    x = np.asarray(a["self"])
    told = a.get("dim")
    axes = range(x.ndim) if told is None else told if isinstance(told, tuple) else (told,)
    return np.squeeze(x, axis=tuple(i % x.ndim for i in axes if x.shape[i] == 1))


def _transpose(a: Arguments) -> AnyArray:
    return np.swapaxes(a["self"], a.get("dim0", 0), a.get("dim1", 1))


def _binary(function: Callable[[Any, Any], Any], second: str = "other") -> Callable[[Arguments], AnyArray]:
    def run(a: Arguments) -> AnyArray:
        x, y = a["self"], a[second]
        bounded(np.broadcast_shapes(np.shape(x), np.shape(y)))
        alpha = a.get("alpha", 1)
        return np.asarray(function(x, y if alpha == 1 else y * alpha))

    return run


def _unary(function: Callable[[Any], Any]) -> Callable[[Arguments], AnyArray]:
    return lambda a: np.asarray(function(a["self"]))


def _symbolic(function: Callable[[Any, Any], Any]) -> Callable[[Arguments], AnyArray]:
    """Arithmetic on sizes: all arguments in order, whatever their names."""

    def run(a: Arguments) -> AnyArray:
        return np.asarray(function(*(np.asarray(v) for v in a.values())))

    return run


def _like(value: float) -> Callable[[Arguments], AnyArray]:
    return lambda a: np.full(np.shape(a["self"]), value, dtype=_dtype(a, np.asarray(a["self"]).dtype.type))


def _matmul(x: AnyArray, y: AnyArray) -> AnyArray:
    bounded([np.size(v) // max(1, min(np.shape(v), default=1)) for v in (x, y)])
    return np.asarray(np.matmul(x, y))


def _linear(a: Arguments) -> AnyArray:
    y = _matmul(a["input"], np.asarray(a["weight"]).T)
    return y if a.get("bias") is None else y + a["bias"]


def _embedding(a: Arguments) -> AnyArray:
    table, ids = np.asarray(a["weight"]), np.asarray(a["indices"])
    bounded([ids.size, table.shape[1]])
    return np.asarray(table[ids])


def _stack(a: Arguments) -> AnyArray:
    return np.stack(a["tensors"], axis=a.get("dim", 0))


FOLDS: dict[str, Callable[[Arguments], Any]] = {
    "zeros": lambda a: np.zeros(_sizes(a["size"]), dtype=_dtype(a)),
    "ones": lambda a: np.ones(_sizes(a["size"]), dtype=_dtype(a)),
    "full": lambda a: np.full(_sizes(a["size"]), a["fill_value"], dtype=_dtype(a, None)),
    "new_zeros": lambda a: np.zeros(_sizes(a["size"]), dtype=_dtype(a, np.asarray(a["self"]).dtype.type)),
    "new_ones": lambda a: np.ones(_sizes(a["size"]), dtype=_dtype(a, np.asarray(a["self"]).dtype.type)),
    "zeros_like": _like(0),
    "ones_like": _like(1),
    "scalar_tensor": lambda a: np.asarray(a["s"], dtype=_dtype(a)),
    "arange": _arange,
    "expand": _expand,
    "slice": _slice,
    "select": lambda a: np.take(a["self"], int(a["index"]), axis=a["dim"]),
    "view": lambda a: np.reshape(a["self"], [int(v) for v in a["size"]]),
    "_unsafe_view": lambda a: np.reshape(a["self"], [int(v) for v in a["size"]]),
    "reshape": lambda a: np.reshape(a["self"], [int(v) for v in a["shape"]]),
    "unsqueeze": lambda a: np.expand_dims(a["self"], a["dim"]),
    "squeeze": _squeeze,
    "transpose": _transpose,
    "t": _transpose,
    "permute": lambda a: np.transpose(a["self"], a["dims"]),
    "cat": lambda a: np.concatenate(a["tensors"], axis=a.get("dim", 0)),
    "stack": _stack,
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy"), lambda a: np.asarray(a["self"])),
    "dropout": lambda a: np.asarray(a["input"]),
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "rsub": _binary(lambda x, y: y - x),
    "mul": _binary(np.multiply),
    "div": _binary(np.true_divide),
    "pow": _binary(np.power, "exponent"),
    "eq": _binary(np.equal),
    "ne": _binary(np.not_equal),
    "lt": _binary(np.less),
    "le": _binary(np.less_equal),
    "gt": _binary(np.greater),
    "ge": _binary(np.greater_equal),
    "logical_and": _binary(np.logical_and),
    "logical_or": _binary(np.logical_or),
    **dict.fromkeys(("bitwise_and", "__and__"), _binary(np.bitwise_and)),
    **dict.fromkeys(("bitwise_or", "__or__"), _binary(np.bitwise_or)),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "logical_not": _unary(np.logical_not),
    "bitwise_not": _unary(np.invert),
    "neg": _unary(np.negative),
    "abs": _unary(np.abs),
    "exp": _unary(np.exp),
    "log": _unary(np.log),
    "sqrt": _unary(np.sqrt),
    "rsqrt": _unary(lambda x: 1 / np.sqrt(x)),
    "reciprocal": _unary(lambda x: 1 / np.asarray(x, dtype=np.float32)),
    "sin": _unary(np.sin),
    "cos": _unary(np.cos),
    "tanh": _unary(np.tanh),
    "sigmoid": _unary(lambda x: 1 / (1 + np.exp(-x))),
    "where": lambda a: np.where(a["condition"], a["self"], a["other"]),
    "masked_fill": lambda a: np.where(a["mask"], np.asarray(a["value"], np.asarray(a["self"]).dtype), a["self"]),
    "relu": _unary(lambda x: np.maximum(x, 0)),
    "matmul": lambda a: _matmul(a["self"], a["other"]),
    "mm": lambda a: _matmul(a["self"], a["mat2"]),
    "linear": _linear,
    "embedding": _embedding,
    "triu": lambda a: np.triu(a["self"], a.get("diagonal", 0)),
    "tril": lambda a: np.tril(a["self"], a.get("diagonal", 0)),
    "cumsum": lambda a: np.cumsum(a["self"], axis=a["dim"]),
    "sym_size": lambda a: np.asarray(np.shape(a["self"])[a["dim"]]),
    "_operator.add": _symbolic(operator.add),
    "_operator.sub": _symbolic(operator.sub),
    "_operator.mul": _symbolic(operator.mul),
    "_operator.floordiv": _symbolic(operator.floordiv),
    "_operator.mod": _symbolic(operator.mod),
    "_operator.eq": _symbolic(operator.eq),
    "_operator.ge": _symbolic(operator.ge),
    "_operator.le": _symbolic(operator.le),
    "_operator.gt": _symbolic(operator.gt),
    "_operator.lt": _symbolic(operator.lt),
}
