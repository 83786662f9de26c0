"""Expressions from the text that engines print. The text is parsed, never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .expression import MAX_POWER, Apply, Binary, Constant, Expression, Function, Power, Sign, Variable

MAX_TEXT = 20_000
MAX_DEPTH = 200
SIGNS = {ast.Add: Sign.ADD, ast.Sub: Sign.SUB, ast.Mult: Sign.MUL, ast.Div: Sign.DIV}
POWERS = {"square": 2, "cube": 3, "inv": -1}


class ParseError(ValueError):
    """Text that is not an expression we have; the message is part of a sentence."""


def parse(text: str, variables: Mapping[str, int]) -> Expression:
    """An expression from infix text with `^` or `**` for powers; `variables`: index by name.

    Raises ParseError.
    """
    if len(text) > MAX_TEXT:
        raise ParseError(f"is longer than {MAX_TEXT} characters")
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParseError(f"cannot be parsed: {error}") from error
    return _node(tree.body, variables, MAX_DEPTH)


def _node(node: ast.expr, variables: Mapping[str, int], depth: int) -> Expression:
    if depth == 0:
        raise ParseError(f"is nested deeper than {MAX_DEPTH}")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Constant(float(value))
        case ast.Name(id=name) if name in variables:
            return Variable(variables[name])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _node(operand, variables, depth - 1)
            return Constant(-inner.value) if isinstance(inner, Constant) else Apply(Function.NEG, inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _node(operand, variables, depth - 1)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_node(left, variables, depth - 1), _node(right, variables, depth - 1))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in SIGNS:
            first, second = _node(left, variables, depth - 1), _node(right, variables, depth - 1)
            return Binary(SIGNS[type(operator)], first, second)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            inner = _node(argument, variables, depth - 1)
            if name in POWERS:
                return Power(inner, POWERS[name])
            try:
                return Apply(Function(name), inner)
            except ValueError as error:
                raise ParseError(f"has the function {name}") from error
        case _:
            raise ParseError(f"has {ast.unparse(node)}")


def _power(base: Expression, exponent: Expression) -> Expression:
    if not isinstance(exponent, Constant):
        raise ParseError("has a power whose exponent is not a number")
    if exponent.value == 0.5:
        return Apply(Function.SQRT, base)
    whole = int(exponent.value)
    if whole != exponent.value or whole == 0 or abs(whole) > MAX_POWER:
        raise ParseError(f"has the power {exponent.value}")
    return Power(base, whole)
