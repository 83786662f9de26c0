"""Expressions in at most a few variables: a tree of frozen nodes, evaluated in numpy float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MAX_POWER = 16


class Function(StrEnum):
    """Of one argument; the names are those of C where C has them."""

    NEG = "neg"
    SQRT = "sqrt"
    EXP = "exp"
    LOG = "log"
    SIN = "sin"
    COS = "cos"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    RELU = "relu"


class Sign(StrEnum):
    """Of two arguments, as they are written."""

    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"


@dataclass(frozen=True)
class Constant:
    value: float


@dataclass(frozen=True)
class Variable:
    index: int


@dataclass(frozen=True)
class Apply:
    """function(argument)"""

    function: Function
    argument: Expression


@dataclass(frozen=True)
class Binary:
    """left sign right"""

    sign: Sign
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Power:
    """base^exponent for a whole exponent, by multiplication from the left; 1 / that for a negative one."""

    base: Expression
    exponent: int


Expression = Constant | Variable | Apply | Binary | Power

FUNCTIONS: dict[Function, Callable[[Numbers], Numbers]] = {
    Function.NEG: np.negative,
    Function.SQRT: np.sqrt,
    Function.EXP: np.exp,
    Function.LOG: np.log,
    Function.SIN: np.sin,
    Function.COS: np.cos,
    Function.TANH: np.tanh,
    Function.SIGMOID: lambda x: np.asarray(1.0 / (1.0 + np.exp(-x))),
    Function.RELU: lambda x: np.maximum(x, 0.0),
}
SIGNS: dict[Sign, Callable[[Numbers, Numbers], Numbers]] = {
    Sign.ADD: np.add,
    Sign.SUB: np.subtract,
    Sign.MUL: np.multiply,
    Sign.DIV: np.divide,
}


def evaluate(expression: Expression, x: Numbers) -> Numbers:
    """Values [rows] for rows `x` [rows, variables]; not finite where the expression is not defined."""
    with np.errstate(all="ignore"):
        return np.asarray(np.broadcast_to(_value(expression, x), len(x)), dtype=np.float64)


def _value(expression: Expression, x: Numbers) -> Numbers:
    match expression:
        case Constant(value):
            return np.asarray(value)
        case Variable(index):
            return np.asarray(x[:, index])
        case Apply(function, argument):
            return FUNCTIONS[function](_value(argument, x))
        case Binary(sign, left, right):
            return SIGNS[sign](_value(left, x), _value(right, x))
        case Power(base, exponent):
            factor = _value(base, x)
            product = factor
            for _ in range(abs(exponent) - 1):
                product = product * factor
            return np.asarray(product if exponent > 0 else 1.0 / product)
        case _:
            assert_never(expression)


def children(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Constant() | Variable():
            return ()
        case Apply(_, argument):
            return (argument,)
        case Binary(_, left, right):
            return (left, right)
        case Power(base, _):
            return (base,)
        case _:
            assert_never(expression)


def nodes(expression: Expression) -> Iterator[Expression]:
    """All nodes, parents first, from left to right."""
    yield expression
    for child in children(expression):
        yield from nodes(child)


def complexity(expression: Expression) -> int:
    """Number of nodes; a power counts as its multiplications."""
    return sum(1 + (abs(node.exponent) if isinstance(node, Power) else 0) for node in nodes(expression))


def constants(expression: Expression) -> list[float]:
    """Values of all constants in the order of `nodes`."""
    return [node.value for node in nodes(expression) if isinstance(node, Constant)]


def with_constants(expression: Expression, values: Sequence[float]) -> Expression:
    """The same expression with other constants, in the order of `constants`."""
    left = iter(values)

    def rebuilt(node: Expression) -> Expression:
        match node:
            case Constant():
                return Constant(float(next(left)))
            case Variable():
                return node
            case Apply(function, argument):
                return Apply(function, rebuilt(argument))
            case Binary(sign, first, second):
                return Binary(sign, rebuilt(first), rebuilt(second))
            case Power(base, exponent):
                return Power(rebuilt(base), exponent)
            case _:
                assert_never(node)

    return rebuilt(expression)


def simplified(expression: Expression) -> Expression:
    """Constants folded; x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1, x^1 and --x replaced by x.

    Equal in float64 for every x, not finite ones included, but for the sign of a zero. Nothing else is touched: 0 * x
    is not 0 where x is infinite.
    """
    match expression:
        case Constant() | Variable():
            return expression
        case Apply(function, argument):
            inner = simplified(argument)
            if function is Function.NEG and isinstance(inner, Apply) and inner.function is Function.NEG:
                return inner.argument
            return _folded(Apply(function, inner))
        case Binary(sign, left, right):
            return _neutral(Binary(sign, simplified(left), simplified(right)))
        case Power(base, exponent):
            inner = simplified(base)
            return inner if exponent == 1 else _folded(Power(inner, exponent))
        case _:
            assert_never(expression)


def _neutral(node: Binary) -> Expression:
    neutral = Constant(0.0) if node.sign in (Sign.ADD, Sign.SUB) else Constant(1.0)
    if node.right == neutral:
        return node.left
    if node.left == neutral and node.sign in (Sign.ADD, Sign.MUL):
        return node.right
    return _folded(node)


def _folded(node: Expression) -> Expression:
    """A constant, where all operands are and the value is finite."""
    if all(isinstance(child, Constant) for child in children(node)):
        value = float(evaluate(node, np.zeros((1, 1)))[0])
        if np.isfinite(value):
            return Constant(value)
    return node
