"""A network trained on a known formula comes back as that formula, as code, with its error measured."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from ecompile_crds.hybridmodel import Distill, Equivalence, Strategy, Target
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.distill.exact import exact
from ecompile_workers.distill.orchestrator import Declined, Distilled, distill
from ecompile_workers.distill.strategy import Policy, Replacement
from ecompile_workers.distill.symbolic.sparse import SparseRegression
from ecompile_workers.distill.symbolic.strategy import symbolic
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor, problems
from ecompile_workers.ir.to_onnx import export

from .times import told_times

LOW, HIGH = 1.0, 5.0
HIDDEN = 160
LIMITS = Equivalence(max_relative_error=1e-2, max_deviation=1e-2, min_correlation=0.999)


sought = partial(symbolic, engines=(SparseRegression(),))
"""With the engine that takes milliseconds."""
STRATEGIES = {Strategy.EXACT: exact, Strategy.SYMBOLIC: sought}


def formula(x: np.ndarray) -> np.ndarray:
    """I.14.4 of the Feynman problems: k x^2 / 2."""
    return np.asarray(x[:, :1] * x[:, 1:] ** 2 / 2)


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOW, HIGH, size=(count, 2)).astype(np.float32)


def dense(name: str, source: str, weight: np.ndarray, bias: np.ndarray) -> Node:
    constants = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    return Node(op=Op.GEMM, inputs=(source,), output=Tensor(name=name, shape=(weight.shape[1],)), constants=constants)


@pytest.fixture(scope="module")
def network() -> Graph:
    """A hidden layer of tanh at random places, the output solved for (an extreme learning machine)."""
    rng = np.random.default_rng(0)
    first = dense("h", "x", rng.normal(size=(2, HIDDEN)) / 3, rng.normal(size=HIDDEN))
    x = rows(3000, 1).astype(np.float64)
    hidden = np.tanh((x - 3) @ first.constants["weight"] + first.constants["bias"])
    full = np.concatenate([hidden, np.ones((len(x), 1))], axis=1)
    weight = np.linalg.solve(full.T @ full + 1e-6 * np.eye(HIDDEN + 1), full.T @ formula(x))
    centred = first.constants["bias"] - 3 * first.constants["weight"].sum(axis=0)
    nodes = (
        dense("h", "x", first.constants["weight"], centred),
        Node(op=Op.TANH, inputs=("h",), output=Tensor(name="a", shape=(HIDDEN,))),
        dense("y", "a", weight[:-1], weight[-1]),
    )
    return Graph(input=Tensor(name="x", shape=(2,)), output=nodes[-1].output, nodes=nodes)


def test_the_network_has_learned_the_formula(network: Graph) -> None:
    x = rows(500, 2)
    assert np.abs(interpreter.run(network, x) - formula(x)).max() < 0.05


def test_the_formula_comes_back(network: Graph) -> None:
    found = sought(network, rows(600, 3), Policy(equivalence=LIMITS))
    assert isinstance(found, Replacement), found
    assert problems(found.graph) == [] and found.graph.macs == 0
    x = rows(500, 4)
    np.testing.assert_allclose(interpreter.run(found.graph, x), formula(x), rtol=2e-2, atol=2e-2)
    assert "x0" in found.note and "x1^2" in found.note and "off by at most" in found.note
    assert found.judging is not None and found.judging.sum() == 150


def test_it_is_chosen_with_sampled_evidence_and_is_faster(network: Graph) -> None:
    policy = Distill(strategies=[Strategy.EXACT, Strategy.SYMBOLIC], targets=[Target(cpu_levels()[0])])
    neural = export(network).SerializeToString()
    found = distill(network, neural, rows(600, 3), policy, equivalence=LIMITS, strategies=STRATEGIES)
    assert isinstance(found, Distilled), found
    assert found.strategy == "symbolic"
    assert found.evidence.samples == 150 and found.evidence.kind == "sampled"
    exact, formula_ = found.candidates
    assert exact.microseconds is not None and formula_.microseconds is not None
    assert formula_.microseconds < exact.microseconds


def test_limits_that_the_network_itself_does_not_keep_decline_it(network: Graph) -> None:
    found = sought(network, rows(600, 3), Policy(equivalence=Equivalence(max_deviation=1e-7)))
    assert isinstance(found, Declined)
    assert found.reason.startswith("symbolic: output 0: off by")


def test_where_it_is_all_that_is_wanted_it_is_all_that_is_tried(network: Graph) -> None:
    policy = Distill(strategies=[Strategy.SYMBOLIC], targets=[Target(cpu_levels()[0])])
    neural = export(network).SerializeToString()
    found = distill(
        network, neural, rows(600, 3), policy, equivalence=LIMITS, strategies=STRATEGIES, measure=told_times(1e-7)
    )
    assert isinstance(found, Distilled) and [each.strategy for each in found.candidates] == ["symbolic"]
