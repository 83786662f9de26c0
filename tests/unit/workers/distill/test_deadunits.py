"""Sampled dead units: removed where no row switches them on, judged by other rows, never called a proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ecompile_crds.evidence import EvidenceKind
from ecompile_workers.distill.deadunits import DeadUnits, find_dead_units
from ecompile_workers.distill.outcome import Declined
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op, problems

from ..networks import make_graph


def with_dead(graph: Graph, share: float, seed: int = 0) -> Graph:
    """The same with some first-layer units that inputs near zero never switch on."""
    first = graph.nodes[0]
    rng = np.random.default_rng(seed)
    bias = first.constants["bias"].copy()
    bias[rng.random(bias.size) < share] = -50.0
    return replace(graph, nodes=(replace(first, constants={**first.constants, "bias": bias}), *graph.nodes[1:]))


def rows(count: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, inputs)).astype(np.float32)


@pytest.mark.parametrize("last", [None, Op.RELU])
def test_dead_units_go_and_outputs_stay(last: Op | None) -> None:
    graph = with_dead(make_graph([6, 60, 20, 3], seed=1, last=last), 0.6)
    found = find_dead_units(graph, rows(800, 6))
    assert isinstance(found, DeadUnits), found
    assert found.removed[0] >= 25
    assert found.graph.macs < 0.6 * graph.macs
    assert problems(found.graph) == []
    other = rows(200, 6, seed=5)
    np.testing.assert_allclose(interpreter.run(found.graph, other), interpreter.run(graph, other), atol=1e-6)


def test_the_evidence_is_sampled_and_bounded_by_rows_that_did_not_choose() -> None:
    found = find_dead_units(with_dead(make_graph([6, 60, 20, 3], seed=1), 0.6), rows(800, 6))
    assert isinstance(found, DeadUnits)
    assert found.evidence.kind is EvidenceKind.SAMPLED
    assert found.evidence.samples == 400
    assert found.evidence.bound is not None
    assert 0 < found.evidence.bound <= 0.05


def test_units_that_other_rows_switch_on_are_found_out() -> None:
    """Half of the traffic comes from elsewhere, and only the judging rows have seen it."""
    graph = make_graph([4, 80, 3], seed=2)
    near = 0.01 * rows(600, 4)
    near[::2] += rows(300, 4, seed=1) * 3
    found = find_dead_units(graph, near)
    assert isinstance(found, Declined)
    assert "rows err by more than 0.001" in found.reason


@pytest.mark.parametrize(
    ("graph", "count", "reason"),
    [
        (make_graph([4, 8, 2], Op.TANH), 300, "not a chain"),
        (make_graph([4, 8, 2]), 10, "10 calibration rows"),
        (make_graph([4, 8, 2], seed=3), 3000, "of the multiply-adds go"),
    ],
)
def test_it_declines_with_the_reason(graph: Graph, count: int, reason: str) -> None:
    found = find_dead_units(graph, rows(count, 4) * 3)
    assert isinstance(found, Declined)
    assert reason in found.reason
