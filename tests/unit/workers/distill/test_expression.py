"""Expressions: what is printed, parsed and simplified has the same value."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import ModelError
from ecompile_workers.distill.symbolic.expression import (
    Apply,
    Binary,
    Constant,
    Expression,
    Function,
    Power,
    Sign,
    Variable,
    complexity,
    constants,
    evaluate,
    nodes,
    simplified,
    with_constants,
)
from ecompile_workers.distill.symbolic.parse import MAX_TEXT, ParseError, parse
from ecompile_workers.distill.symbolic.printing import supported_by_graph, to_c, to_graph, to_text
from ecompile_workers.ir import serialize
from ecompile_workers.ir.graph import problems
from ecompile_workers.ir.interpreter import run
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .expressions import VARIABLES, expressions

NAMES = {f"x{i}": i for i in range(VARIABLES)}
ALL = list(Function)
IN_GRAPHS = [f for f in ALL if f not in (Function.SIN, Function.COS)]
ROWS = np.random.default_rng(0).uniform(0.2, 2.0, size=(20, VARIABLES))
HARD = np.array([[0.0, -1.0, np.inf], [np.nan, 1.0, -0.0], [1e300, -1e300, 1e-300], [-np.inf, 2.0, 3.0]])


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first, second, equal_nan=True)


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(expressions(ALL))
def test_printed_text_is_parsed_to_the_same_values(expression: Expression) -> None:
    again = parse(to_text(expression), NAMES)
    assert same(evaluate(again, ROWS), evaluate(expression, ROWS))
    assert same(evaluate(again, HARD), evaluate(expression, HARD))


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(expressions(ALL))
def test_simplified_is_equal_for_every_input(expression: Expression) -> None:
    found = simplified(expression)
    assert complexity(found) <= complexity(expression)
    values = [evaluate(node, ROWS) for node in nodes(expression)]
    signed = np.all([v != 0 for v in values], axis=0)  # the sign of a zero may change
    assert same(evaluate(found, ROWS)[signed], evaluate(expression, ROWS)[signed])


def test_simplified_keeps_what_is_not_equal() -> None:
    x = Variable(0)
    kept = [Binary(Sign.MUL, x, Constant(0.0)), Binary(Sign.DIV, x, x), Binary(Sign.SUB, x, x)]
    assert [simplified(e) for e in kept] == kept
    assert simplified(Binary(Sign.ADD, Constant(0.0), Binary(Sign.MUL, Constant(1.0), x))) == x
    assert simplified(Binary(Sign.ADD, Constant(2.0), Constant(3.0))) == Constant(5.0)
    assert simplified(Binary(Sign.DIV, Constant(1.0), Constant(0.0))) == Binary(Sign.DIV, Constant(1.0), Constant(0.0))


@settings(derandomize=True, database=None)
@given(expressions(ALL))
def test_constants_can_be_replaced(expression: Expression) -> None:
    values = constants(expression)
    assert with_constants(expression, values) == expression
    assert constants(with_constants(expression, [v + 1 for v in values])) == [v + 1 for v in values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x0 +",
        "__import__('os').system('x')",
        "x0.real",
        "foo(x0)",
        "sin(x0, x1)",
        "x9",
        "x0 ^ x1",
        "x0 ^ 0.3",
        "x0 ^ 99",
        "True",
        "'text'",
        "lambda: 1",
        "x0 if x1 else x2",
        "(" * 5000,
        "-" * 3000 + "x0",
        "1" * (MAX_TEXT + 1),
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text, NAMES)


def test_words_of_engines_are_known() -> None:
    assert parse("square(x0) + cube(x1) - x2 ^ 0.5", NAMES) == parse("((x0**2) + (x1**3)) - sqrt(x2)", NAMES)
    assert parse("inv(x0)", NAMES) == Power(Variable(0), -1)
    assert parse("-(2.5)", NAMES) == Constant(-2.5)


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(outputs=st.lists(expressions(ALL, size=20), min_size=1, max_size=3))
def test_c_gives_the_same_values(outputs: list[Expression], tmp_path_factory: pytest.TempPathFactory) -> None:
    outputs = [e for e in outputs if all(np.isfinite(constants(e)))]
    folder = tmp_path_factory.mktemp("formula")
    (folder / "f.c").write_text(to_c("formula", outputs))
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "f.c", "-o", "f.so", "-lm"], cwd=folder, check=True, capture_output=True)
    function = ctypes.CDLL(str(folder / "f.so")).formula
    pointer = ctypes.POINTER(ctypes.c_double)
    y = np.zeros(len(outputs))
    for row in np.concatenate([ROWS, HARD]):
        x = np.ascontiguousarray(row)
        function(x.ctypes.data_as(pointer), y.ctypes.data_as(pointer))
        expected = np.array([evaluate(e, row[None])[0] for e in outputs])
        finite = np.isfinite(expected) & (np.abs(expected) < 1e30)
        # libm and numpy may differ in the last digit, which a difference or a pole makes larger.
        np.testing.assert_allclose(y[finite], expected[finite], rtol=1e-6, atol=1e-9)


def test_c_is_fully_parenthesised(tmp_path: Path) -> None:
    text = to_c("f", [parse("x0 - (x1 - x2) * 0.1 + relu(x0)^2", NAMES)])
    assert "y[0] = ((x[0] - ((x[1] - x[2]) * (0x1.999999999999ap-4))) + eco_power(eco_relu(x[0]), 2));" in text
    with pytest.raises(ModelError, match="cannot be printed"):
        to_c("f", [Constant(float("inf"))])


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(outputs=st.lists(expressions(IN_GRAPHS), min_size=1, max_size=3))
def test_graph_gives_the_same_values(outputs: list[Expression]) -> None:
    outputs = [simplified(e) for e in outputs]
    assume(all(abs(value) < 1e30 for e in outputs for value in constants(e)))
    graph = to_graph(outputs, VARIABLES)
    assert problems(graph) == []
    assert serialize.load(*serialize.dump(graph)) is not None
    found = run(graph, ROWS)
    for column, expression in enumerate(outputs):
        rounded = with_constants(expression, [float(np.float32(v)) for v in constants(expression)])
        np.testing.assert_allclose(found[:, column], evaluate(rounded, ROWS), rtol=1e-9, atol=1e-12)


def test_graph_shares_equal_parts_and_refuses_what_it_lacks() -> None:
    shared = Apply(Function.TANH, Binary(Sign.MUL, Variable(0), Variable(1)))
    graph = to_graph([Binary(Sign.ADD, shared, Constant(1.0)), Power(shared, 2)], 2)
    assert [node.op for node in graph.nodes].count("tanh") == 1
    sine = Apply(Function.SIN, Variable(0))
    assert not supported_by_graph(sine) and supported_by_graph(shared)
    with pytest.raises(ModelError, match="no operator sin"):
        to_graph([sine], 1)
    with pytest.raises(ModelError, match="does not fit float32"):
        to_graph([Binary(Sign.ADD, Variable(0), Constant(1e300))], 1)
