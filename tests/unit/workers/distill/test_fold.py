"""Fold: fewer multiply-adds, the same function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ecompile_workers.distill.fold import fold, folded_graph
from ecompile_workers.distill.outcome import Declined
from ecompile_workers.distill.strategy import Policy, Replacement
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor, problems

from ..networks import make_graph


def without_activations(sizes: list[int], seed: int = 0) -> Graph:
    """Matrices in a row."""
    graph = make_graph(sizes, seed=seed)
    matrices = [node for node in graph.nodes if node.op is Op.GEMM]
    names = [graph.input.name, *(node.output.name for node in matrices)]
    nodes = tuple(replace(node, inputs=(names[index],)) for index, node in enumerate(matrices))
    return Graph(input=graph.input, output=nodes[-1].output, nodes=nodes)


def rows(inputs: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, inputs)).astype(np.float32)


@pytest.mark.parametrize(("sizes", "matrices"), [([8, 6, 4], 1), ([8, 6, 7, 3], 1), ([32, 2, 32], 2)])
def test_matrices_in_a_row_become_one_where_that_is_less_work(sizes: list[int], matrices: int) -> None:
    graph = without_activations(sizes)
    folded = folded_graph(graph)
    assert problems(folded) == []
    assert len(folded.nodes) == matrices
    assert folded.macs <= graph.macs
    x = rows(sizes[0])
    np.testing.assert_allclose(interpreter.run(folded, x), interpreter.run(graph, x), rtol=1e-5, atol=1e-5)


def test_what_the_output_does_not_depend_on_goes() -> None:
    graph = make_graph([4, 8, 2])
    dead = Node(op=Op.EXP, inputs=("z0",), output=Tensor(name="dead", shape=(8,)))
    folded = folded_graph(replace(graph, nodes=(graph.nodes[0], dead, *graph.nodes[1:])))
    assert [node.op for node in folded.nodes] == [Op.GEMM, Op.RELU, Op.GEMM]


def test_a_matrix_that_two_read_stays() -> None:
    graph = without_activations([6, 5, 5])
    first, second = graph.nodes
    total = Node(op=Op.ADD, inputs=(first.output.name, second.output.name), output=Tensor(name="sum", shape=(5,)))
    whole = Graph(input=graph.input, output=total.output, nodes=(first, second, total))
    assert [node.op for node in folded_graph(whole).nodes] == [Op.GEMM, Op.GEMM, Op.ADD]


def test_the_replacement_says_what_it_saves() -> None:
    found = fold(without_activations([8, 6, 4]), rows(8), Policy())
    assert isinstance(found, Replacement) and found.exact
    assert found.note == "2 operators became 1, 72 multiply-adds 32"


def test_it_declines_where_nothing_folds() -> None:
    found = fold(make_graph([8, 6, 4]), rows(8), Policy())
    assert isinstance(found, Declined) and "nothing folds" in found.reason
