"""What a legal graph is, and what the table of operators says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ecompile_workers.ir.attributes import Axis, Convolution, Epsilon, Order, Target
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor, problems
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.onnx_target.writer import TYPES
from ecompile_workers.ir.operators import OPERATORS
from ecompile_workers.ir.to_onnx import EMITTERS

X = Tensor(name="x", shape=(3,))
ONES = np.ones((3, 3), np.float32)


def graph(*nodes: Node, source: Tensor = X) -> Graph:
    return Graph(input=source, output=nodes[-1].output, nodes=nodes)


def relu(source: str = "x", name: str = "y", shape: tuple[int, ...] = (3,)) -> Node:
    return Node(op=Op.RELU, inputs=(source,), output=Tensor(name=name, shape=shape))


def test_every_operator_has_a_row_and_an_onnx_form() -> None:
    assert set(OPERATORS) == set(Op) - {Op.OPAQUE}
    assert set(EMITTERS) == set(OPERATORS)
    assert set(TYPES) == set(DType)


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ((relu("z"),), "input z is not defined before"),
        ((relu(), relu()), "y: defined twice"),
        ((relu(name="x"),), "x: defined twice"),
        ((relu(shape=(4,)),), r"relu gives \(3,\) float32, not \(4,\)"),
        ((Node(op=Op.ADD, inputs=("x",), output=X),), "takes a, b, not 1 operands"),
        ((Node(op=Op.RELU, inputs=(), output=X, constants={"x": ONES, "y": ONES}),), "takes x, not 2 operands"),
        ((Node(op=Op.ADD, inputs=("x",), output=X, constants={"c": ONES}),), "takes a, b, not c"),
        (
            (
                Node(
                    op=Op.GEMM,
                    inputs=("x",),
                    output=Tensor(name="y", shape=(3,)),
                    constants={"weight": ONES, "bias": np.zeros(2, np.float32)},
                ),
            ),
            "do not fit",
        ),
        (
            (Node(op=Op.TRANSPOSE, inputs=("x",), output=X, attributes=Order(order=(1,))),),
            "not an order of 1 axes",
        ),
        ((Node(op=Op.SOFTMAX, inputs=("x",), output=X, attributes=Axis(axis=1)),), "axis 1 is not one of 1"),
        ((Node(op=Op.RELU, inputs=("x",), output=X, attributes=Epsilon()),), "has settings Epsilon"),
        ((Node(op=Op.CONCAT, inputs=(), output=X),), "takes"),
    ],
)
def test_illegal_graphs_are_named(nodes: tuple[Node, ...], text: str) -> None:
    found = problems(graph(*nodes))
    assert found
    with pytest.raises(AssertionError, match=text):
        raise AssertionError("; ".join(found))


def test_an_output_that_is_not_computed_is_named() -> None:
    whole = graph(relu())
    assert problems(replace(whole, output=Tensor(name="other", shape=(3,)))) == ["the output other is not computed"]


def test_settings_without_defaults_must_be_given() -> None:
    with pytest.raises(TypeError):
        Node(op=Op.RESHAPE, inputs=("x",), output=X)
    assert Node(op=Op.SOFTMAX, inputs=("x",), output=X).attributes == Axis(axis=-1)


def test_constants_take_the_place_of_their_name() -> None:
    """SUB with the constant `a` is a - x."""
    two = np.full(3, 2, np.float32)
    node = Node(op=Op.SUB, inputs=("x",), output=Tensor(name="y", shape=(3,)), constants={"a": two})
    assert run(graph(node), np.ones((1, 3), np.float32)).tolist() == [[1, 1, 1]]


def test_features_broadcast_and_rows_stay_apart() -> None:
    """[rows, 3] beside [rows, 3, 3]: the shorter one is aligned from the right, behind the batch."""
    wide = Node(op=Op.RESHAPE, inputs=("x",), output=Tensor(name="w", shape=(3, 1)), attributes=Target(shape=(3, 1)))
    both = Node(op=Op.MUL, inputs=("w", "x"), output=Tensor(name="y", shape=(3, 3)))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(run(graph(wide, both), x), x[:, :, None] * x[:, None, :])


def test_macs_count_products_per_row() -> None:
    source = Tensor(name="x", shape=(4, 6, 6))
    conv = Node(
        op=Op.CONV,
        inputs=("x",),
        output=Tensor(name="y", shape=(8, 4, 4)),
        constants={"weight": np.zeros((8, 2, 3, 3), np.float32), "bias": np.zeros(8, np.float32)},
        attributes=Convolution(strides=(1, 1), dilations=(1, 1), begin=(0, 0), end=(0, 0), groups=2),
    )
    whole = graph(conv, source=source)
    assert problems(whole) == []
    assert whole.macs == 8 * 4 * 4 * 2 * 9


def test_an_opaque_operator_cannot_be_interpreted() -> None:
    node = Node(op=Op.OPAQUE, inputs=("x",), output=Tensor(name="y", shape=(3,)), source="Magic")
    with pytest.raises(ValueError, match="operator Magic is not known"):
        run(graph(node), np.ones((1, 3)))


@pytest.mark.parametrize("op", [Op.RELU, Op.CLIP, Op.SIGMOID, Op.TANH, Op.GELU])
def test_not_a_number_stays_not_a_number(op: Op) -> None:
    node = Node(op=op, inputs=("x",), output=Tensor(name="y", shape=(3,)))
    assert np.isnan(run(graph(node), np.array([[np.nan, 1, 2]]))).tolist() == [[True, False, False]]
