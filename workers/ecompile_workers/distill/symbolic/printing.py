"""Expressions as text, as C, and as a graph. Every operation is in parentheses: no rule of precedence is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import numpy as np
from ecompile_crds.errors import Code, ModelError

from ...ir.attributes import NOTHING, Attributes, Axis, Ranges
from ...ir.graph import Array, Graph, Node, Op, Tensor
from .expression import Apply, Binary, Constant, Expression, Function, Power, Sign, Variable, nodes, simplified

C_PRELUDE = """\
#include <math.h>

static double eco_neg(double x) { return -x; }
static double eco_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static double eco_relu(double x) { return x < 0.0 ? 0.0 : x; }
static double eco_power(double x, int n)
{
    double y = x;
    for (int i = 1; i < (n < 0 ? -n : n); i++)
        y = y * x;
    return n < 0 ? 1.0 / y : y;
}
"""
OWN = frozenset({Function.NEG, Function.SIGMOID, Function.RELU})
GRAPH_FUNCTIONS = {
    Function.NEG: Op.NEG,
    Function.SQRT: Op.SQRT,
    Function.EXP: Op.EXP,
    Function.LOG: Op.LOG,
    Function.TANH: Op.TANH,
    Function.SIGMOID: Op.SIGMOID,
    Function.RELU: Op.RELU,
}
GRAPH_SIGNS = {Sign.ADD: Op.ADD, Sign.SUB: Op.SUB, Sign.MUL: Op.MUL, Sign.DIV: Op.DIV}


def to_text(expression: Expression, names: Sequence[str] | None = None) -> str:
    """For people, and for `parse`: shortest digits that give the same float64."""
    match expression:
        case Constant(value):
            return f"({value!r})" if math.copysign(1.0, value) < 0 else repr(value)
        case Variable(index):
            return f"x{index}" if names is None else names[index]
        case Apply(Function.NEG, argument):
            return f"(-{to_text(argument, names)})"
        case Apply(function, argument):
            return f"{function}({to_text(argument, names)})"
        case Binary(sign, left, right):
            return f"({to_text(left, names)} {sign} {to_text(right, names)})"
        case Power(base, exponent):
            return f"({to_text(base, names)}^{exponent})" if exponent > 0 else f"({to_text(base, names)}^({exponent}))"
        case _:
            assert_never(expression)


def to_c(name: str, outputs: Sequence[Expression]) -> str:
    """C11: `void name(const double *x, double *y)` writes one value per expression. Constants are exact."""
    lines = [f"    y[{index}] = {_c(expression)};" for index, expression in enumerate(outputs)]
    return "\n".join([C_PRELUDE, f"void {name}(const double *x, double *y)", "{", *lines, "}", ""])


def _c(expression: Expression) -> str:
    match expression:
        case Constant(value):
            if not np.isfinite(value):
                raise ModelError(Code.MODEL_UNSUPPORTED, f"the constant {value} cannot be printed as C.")
            return f"({value.hex()})"
        case Variable(index):
            return f"x[{index}]"
        case Apply(function, argument):
            return f"{'eco_' if function in OWN else ''}{function}({_c(argument)})"
        case Binary(sign, left, right):
            return f"({_c(left)} {sign} {_c(right)})"
        case Power(base, exponent):
            return f"eco_power({_c(base)}, {exponent})"
        case _:
            assert_never(expression)


def to_graph(outputs: Sequence[Expression], inputs: int) -> Graph:
    """A graph from [inputs] to [outputs]. Constants become float32, as all weights do.

    Raises ModelError where an expression has a function that graphs lack (sin and cos).
    """
    return _Builder(inputs).build([simplified(expression) for expression in outputs])


class _Builder:
    """Equal parts of expressions become one node."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._nodes: list[Node] = []
        self._known: dict[Expression, str] = {}

    def build(self, outputs: Sequence[Expression]) -> Graph:
        source = Tensor(name="x", shape=(self._inputs,))
        names = tuple(self._name(expression) for expression in outputs)
        target = Tensor(name="y", shape=(len(names),))
        self._nodes.append(Node(op=Op.CONCAT, inputs=names, output=target, attributes=Axis(axis=0)))
        return Graph(input=source, output=target, nodes=tuple(self._nodes))

    def _name(self, expression: Expression) -> str:
        if expression not in self._known:
            self._known[expression] = self._made(expression)
        return self._known[expression]

    def _made(self, expression: Expression) -> str:
        match expression:
            case Constant(value):  # a graph is a function of its input, so this is made from an input too
                zero = self._add(Op.MUL, (self._name(Variable(0)),), {"b": _scalar(0.0)})
                return self._add(Op.ADD, (zero,), {"b": _scalar(value)})
            case Variable(index):
                at = Ranges(starts=(index,), stops=(index + 1,), steps=(1,))
                return self._add(Op.SLICE, ("x",), {}, at)
            case Apply(function, argument):
                if function not in GRAPH_FUNCTIONS:
                    raise ModelError(
                        Code.MODEL_UNSUPPORTED, f"graphs have no operator {function}; print the expression as C."
                    )
                return self._add(GRAPH_FUNCTIONS[function], (self._name(argument),), {})
            case Binary(sign, left, right):
                known = {k: _scalar(v.value) for k, v in (("a", left), ("b", right)) if isinstance(v, Constant)}
                if len(known) == 2:
                    known.pop("a")
                flowing = tuple(self._name(v) for k, v in (("a", left), ("b", right)) if k not in known)
                return self._add(GRAPH_SIGNS[sign], flowing, known)
            case Power(base, exponent):
                factor = product = self._name(base)
                for _ in range(abs(exponent) - 1):
                    product = self._add(Op.MUL, (product, factor), {})
                return product if exponent > 0 else self._add(Op.DIV, (product,), {"a": _scalar(1.0)})
            case _:
                assert_never(expression)

    def _add(self, op: Op, inputs: tuple[str, ...], known: dict[str, Array], attributes: Attributes = NOTHING) -> str:
        name = f"t{len(self._nodes)}"
        output = Tensor(name=name, shape=(1,))
        self._nodes.append(Node(op=op, inputs=inputs, output=output, constants=known, attributes=attributes))
        return name


def _scalar(value: float) -> Array:
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ModelError(Code.MODEL_UNSUPPORTED, f"the constant {value!r} does not fit float32; print it as C.")
    return np.array([value], dtype=np.float32)


def supported_by_graph(expression: Expression) -> bool:
    """Whether `to_graph` has all functions of an expression."""
    return all(node.function in GRAPH_FUNCTIONS for node in nodes(expression) if isinstance(node, Apply))
