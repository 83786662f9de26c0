"""What a loop nest says: target[i] = then(fold over r of value(i, r)), all places linear in the loop variables."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..views import Place, View


class Function(StrEnum):
    """Of numbers; comparisons give 1 or 0. What NaN does is what IEEE 754 comparisons make of it."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MIN = "min"
    MAX = "max"
    NEG = "neg"
    ABS = "abs"
    TRUNC = "trunc"
    SQRT = "sqrt"
    EXP = "exp"
    LOG = "log"
    ERF = "erf"
    TANH = "tanh"
    EQUAL = "equal"
    LESS = "less"
    LESS_OR_EQUAL = "less_or_equal"
    SELECT = "select"
    """select(condition, a, b): a where the condition is not 0."""


class Fold(StrEnum):
    """How values are combined over the reduced loops."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """The number at a place; `strides`: floats per loop variable, kept ones first."""

    place: Place
    strides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The number `index` * `step` floats further on; not-a-number unless 0 <= index < `count`."""

    load: Load
    index: Expression
    step: int
    count: int


@dataclass(frozen=True)
class Apply:
    """A function of expressions."""

    function: Function
    operands: tuple[Expression, ...]


@dataclass(frozen=True)
class Folded:
    """In `Nest.then`: what the fold gave."""


Expression = Number | Load | Lookup | Apply | Folded


@dataclass(frozen=True, kw_only=True)
class Nest:
    """One statement under its loops."""

    target: View
    """Its shape is the sizes of the kept loops."""
    value: Expression
    reduced: tuple[int, ...] = ()
    """Sizes of the loops that are folded."""
    fold: Fold = Fold.SUM
    then: Expression = Folded()


def call(function: Function, *operands: Expression | float) -> Apply:
    """Numbers stand for constants."""
    return Apply(function, tuple(Number(o) if isinstance(o, (int, float)) else o for o in operands))


def add(a: Expression | float, b: Expression | float) -> Apply:
    return call(Function.ADD, a, b)


def sub(a: Expression | float, b: Expression | float) -> Apply:
    return call(Function.SUB, a, b)


def mul(a: Expression | float, b: Expression | float) -> Apply:
    return call(Function.MUL, a, b)


def div(a: Expression | float, b: Expression | float) -> Apply:
    return call(Function.DIV, a, b)


def sigmoid(a: Expression) -> Apply:
    return div(1.0, add(1.0, call(Function.EXP, call(Function.NEG, a))))
