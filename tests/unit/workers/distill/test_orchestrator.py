"""The chooser: every strategy can be reached, the fastest equivalent one is taken, the others say why they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ecompile_crds.evidence import EvidenceKind
from ecompile_crds.hybridmodel import SUPPORTED_STRATEGIES, Distill, Equivalence, Strategy, Target
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.distill.guard import box
from ecompile_workers.distill.orchestrator import MIN_GAIN, Declined, Distilled, Ground, choose, distill
from ecompile_workers.distill.strategies import STRATEGIES
from ecompile_workers.distill.strategy import Policy, Replacement, Rows, StrategyFunction
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.to_onnx import export
from hypothesis import given
from hypothesis import strategies as st

from ..networks import make_graph
from .times import told_times

TARGET = Target(cpu_levels()[0])
GRAPH = make_graph([6, 16, 3])
NEURAL = export(GRAPH).SerializeToString()
ROWS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
EXACT, OTHER = Strategy.EXACT, Strategy.DEADUNITS


def policy(*strategies: Strategy, **changes: object) -> Distill:
    return Distill.model_validate({"strategies": strategies, "targets": [TARGET], **changes})


def proposing(graph: Graph, *, exact: bool = True, strategy: Strategy = OTHER) -> StrategyFunction:
    def propose(segment: Graph, calibration: Rows, told: Policy) -> Replacement | Declined:
        judging = np.arange(len(calibration)) % 2 == 0
        return Replacement(
            strategy=strategy, graph=graph, guard=box(calibration), exact=exact, note="another one", judging=judging
        )

    return propose


def changed(scale: float) -> Graph:
    """The network with one weight changed."""
    graph = make_graph([6, 16, 3])
    graph.nodes[0].constants["weight"][0, 0] += scale  # type: ignore[index]  # a test's own array
    return graph


def test_every_strategy_of_the_contract_has_its_function() -> None:
    assert set(STRATEGIES) == set(Strategy) == set(SUPPORTED_STRATEGIES)


def test_all_strategies_are_asked_and_each_says_what_became_of_it() -> None:
    found = distill(GRAPH, NEURAL, ROWS, policy(*Strategy), measure=told_times(1e-6))
    assert isinstance(found, Distilled), found
    assert [each.strategy for each in found.candidates] == [each.value for each in Strategy]
    measured = [each.strategy for each in found.candidates if each.microseconds is not None]
    assert measured == ["exact"]
    assert all(each.note.replace(" ", "").startswith(each.strategy[:4]) for each in found.candidates[2:])
    assert "6 inputs; formulas are sought for at most 5" in found.candidates[-1].note


@pytest.mark.parametrize(
    ("grounds", "seconds", "best"),
    [
        ([0], [2.0], 0),
        ([0, 3], [2.0, 1.0], 1),
        ([0, 3], [1.04, 1.0], 0),
        ([0, 3], [1.06, 1.0], 1),
        ([3, 3], [1.01, 1.0], 1),
        ([0, 0], [1.01, 1.0], 1),
        ([0, 1, 3], [3.0, 1.04, 1.0], 1),
        ([3, 1, 0], [1.0, 2.0, 3.0], 0),
        ([3, 0, 2], [1.04, 1.0, 1.0], 1),
    ],
)
def test_weaker_ground_must_gain_more_than_measurements_scatter(
    grounds: list[int], seconds: list[float], best: int
) -> None:
    assert choose([Ground(each) for each in grounds], seconds) == best


@given(st.lists(st.tuples(st.sampled_from(Ground), st.floats(0.1, 10.0)), min_size=1, max_size=6))
def test_nothing_on_as_strong_ground_is_faster_than_the_choice(tried: list[tuple[Ground, float]]) -> None:
    best = choose([g for g, _ in tried], [seconds for _, seconds in tried])
    for each, seconds in tried:
        if each <= tried[best][0]:
            assert seconds >= tried[best][1]
        else:
            assert seconds * MIN_GAIN**3 >= tried[best][1]


def test_the_fastest_is_taken_and_its_evidence_is_from_rows_that_did_not_make_it() -> None:
    strategies = {EXACT: STRATEGIES[EXACT], OTHER: proposing(changed(1e-7), exact=False)}
    found = distill(GRAPH, NEURAL, ROWS, policy(EXACT, OTHER), strategies=strategies, measure=told_times(2e-6, 1e-6))
    assert isinstance(found, Distilled), found
    assert found.strategy == OTHER.value and found.microseconds == 1.0 and found.speedup == 10.0
    assert found.evidence.kind is EvidenceKind.SAMPLED and found.evidence.samples == 100
    assert set(found.compiled.libraries) == {TARGET.value}


def test_what_is_not_equivalent_is_declined_however_fast_it_is() -> None:
    strategies = {EXACT: STRATEGIES[EXACT], OTHER: proposing(changed(0.5), exact=False)}
    found = distill(GRAPH, NEURAL, ROWS, policy(EXACT, OTHER), strategies=strategies, measure=told_times(2e-6, 1e-9))
    assert isinstance(found, Distilled), found
    assert found.strategy == "exact"
    (note,) = found.declined
    assert note.startswith("deadunits: not equivalent: failed: delta")


def test_limits_of_the_policy_decide_what_is_equivalent() -> None:
    strategies = {OTHER: proposing(changed(0.01), exact=False)}
    wide = Equivalence(max_relative_error=0.1, max_deviation=0.1)
    found = distill(
        GRAPH, NEURAL, ROWS, policy(OTHER), strategies=strategies, equivalence=wide, measure=told_times(1e-6)
    )
    assert isinstance(found, Distilled), found


def test_the_same_code_is_not_measured_twice() -> None:
    strategies = {EXACT: STRATEGIES[EXACT], OTHER: proposing(GRAPH)}
    found = distill(GRAPH, NEURAL, ROWS, policy(EXACT, OTHER), strategies=strategies, measure=told_times(1e-6))
    assert isinstance(found, Distilled), found
    assert found.declined == ("deadunits: the same code as exact",)


def test_rows_that_are_refused_cost_the_neural_path_as_well() -> None:
    found = distill(GRAPH, NEURAL, ROWS, policy(EXACT), measure=told_times(1e-6, answered=0.5))
    assert isinstance(found, Distilled), found
    assert found.microseconds == pytest.approx(1 + 0.5 * 10)


def test_what_does_not_pay_keeps_what_was_measured() -> None:
    found = distill(GRAPH, NEURAL, ROWS, policy(EXACT, minSpeedup=20), measure=told_times(1e-6))
    assert isinstance(found, Declined)
    assert found.reason == "does not pay: measured 10.00x, spec.distill.minSpeedup is 20.0"
    assert [each.microseconds for each in found.candidates] == [1.0]


def ticking(step: float) -> Callable[[], float]:
    now = [0.0]

    def clock() -> float:
        now[0] += step
        return now[0]

    return clock


def test_strategies_past_the_budget_are_not_asked() -> None:
    found = distill(
        GRAPH,
        NEURAL,
        ROWS,
        policy(EXACT, OTHER, budgetSeconds=10),
        measure=told_times(1e-6),
        clock=ticking(6.0),
    )
    assert isinstance(found, Distilled), found
    assert found.declined == ("deadunits: spec.distill.budgetSeconds (10) is used up",)


def test_where_every_strategy_declines_all_reasons_are_given() -> None:
    found = distill(GRAPH, NEURAL, ROWS, policy(Strategy.FOLD, Strategy.SYMBOLIC))
    assert isinstance(found, Declined)
    assert found.reason.startswith("fold: nothing folds") and "symbolic: 6 inputs" in found.reason
