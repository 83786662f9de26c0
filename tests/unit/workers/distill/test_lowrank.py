"""Low rank with a certificate: what is answered is within the stated bound, whatever the input; the rest is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ecompile_crds.evidence import EvidenceKind
from ecompile_workers.certify.network import read_chain
from ecompile_workers.codegen.abi import GuardBox, Reason
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.distill import lowrank
from ecompile_workers.distill.lowrank import LowRank, find_low_rank, low_rank
from ecompile_workers.distill.lowrank_bound import deviation, make_factor
from ecompile_workers.distill.outcome import Declined
from ecompile_workers.distill.strategy import Policy, Replacement, Rows
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op, problems
from hypothesis import given, settings
from hypothesis import strategies as st

from ..networks import make_graph, wide_box

LEVEL = cpu_levels()[0]
INPUTS, THIN = 48, 3


def thin_rows(count: int, seed: int, *, noise: float = 1e-6, inputs: int = INPUTS) -> Rows:
    """Rows near a subspace of `THIN` dimensions, away from the origin."""
    axes = np.random.default_rng(99).normal(size=(THIN + 1, inputs)) / np.sqrt(THIN)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, THIN)) @ axes[:THIN] + axes[THIN]
    return (rows + noise * rng.normal(size=rows.shape)).astype(np.float32)


def compiled(graph: Graph, guard: GuardBox) -> CompiledFunction:
    made = compile_graph(graph, guard, levels=[LEVEL], optimisation="O2")
    return CompiledFunction(made.libraries[LEVEL], macs=graph.macs)


def found_in(graph: Graph, rows: Rows, max_deviation: float = 1e-4) -> LowRank:
    found = find_low_rank(graph, rows, max_deviation=max_deviation)
    assert isinstance(found, LowRank), found
    assert problems(found.graph) == []
    return found


@pytest.fixture(scope="module")
def network() -> Graph:
    return make_graph([INPUTS, 64, 32, 4])


@pytest.fixture(scope="module")
def made(network: Graph) -> LowRank:
    return found_in(network, thin_rows(400, 1))


@pytest.fixture(scope="module")
def module(made: LowRank) -> CompiledFunction:
    return compiled(made.graph, wide_box(INPUTS))


def refused_and_error(module: CompiledFunction, network: Graph, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    exact = interpreter.run(network, rows).reshape(len(rows), -1)
    answers = [module(row[None]) for row in rows]
    refused = np.array([reason != Reason.OK for reason, _ in answers])
    values = np.concatenate([y for _, y in answers])
    return refused, np.abs(values - exact).max(axis=1)


def test_thin_traffic_makes_thin_matrices_that_answer_it(
    network: Graph, made: LowRank, module: CompiledFunction
) -> None:
    assert made.factors[0].rank == THIN and made.factors[0].watched
    assert made.graph.macs < 0.7 * network.macs
    refused, error = refused_and_error(module, network, thin_rows(300, 2))
    assert refused.mean() <= 0.02
    assert error[~refused].max() <= made.bound
    assert error[~refused].max() <= made.tolerance, "rounding is far below its worst case"


def test_inputs_that_the_thin_matrices_do_not_see_are_refused(
    network: Graph, made: LowRank, module: CompiledFunction
) -> None:
    strange = np.random.default_rng(3).normal(size=(200, INPUTS)).astype(np.float32)
    refused, _ = refused_and_error(module, network, strange)
    assert refused.all()


def test_not_a_number_is_refused(module: CompiledFunction) -> None:
    row = thin_rows(1, 4)
    row[0, 5] = np.nan
    assert module(row)[0] != Reason.OK


@pytest.mark.parametrize("seed", range(4))
def test_attacks_find_no_answer_beyond_the_bound(
    network: Graph, made: LowRank, module: CompiledFunction, seed: int
) -> None:
    """Steps along the gradient of the error, and random ones of every size: what is answered stays within the bound."""
    rng = np.random.default_rng(seed)
    rows = thin_rows(150, 10 + seed).astype(np.float64)
    basis = made.factors[0].basis
    outcomes = set()
    for scale in (0.0, 1e-7, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3):
        directions = rng.normal(size=rows.shape)
        directions -= directions @ basis @ basis.T  # only what is not seen
        if seed % 2:
            directions = _worst(network, rows, directions)
        moved = (rows + scale * directions / np.linalg.norm(directions, axis=1, keepdims=True) * 10).astype(np.float32)
        refused, error = refused_and_error(module, network, moved)
        assert (error[~refused] <= made.bound).all()
        outcomes.update(refused.tolist())
    assert outcomes == {True, False}, "the attack reaches across the border"


def _worst(network: Graph, rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """One power step of the network's Jacobian by differences: the unseen direction that changes the output most."""
    base = interpreter.run(network, rows)
    step = 1e-4
    change = (interpreter.run(network, rows + step * directions) - base) / step
    weight = network.nodes[0].constants["weight"].astype(np.float64)
    pulled = directions + (np.abs(change).sum(axis=1, keepdims=True)) * (directions @ weight @ weight.T)
    return np.asarray(pulled)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), rank=st.integers(1, 6), layer=st.integers(0, 2), watched=st.booleans())
def test_the_bound_of_each_row_holds_for_any_factors(seed: int, rank: int, layer: int, watched: bool) -> None:
    """Constants against float32 arithmetic and the float64 interpreter, for bases that nobody would choose."""
    rng = np.random.default_rng(seed)
    graph = make_graph([10, 12, 9, 3], seed=seed % 97)
    chain = read_chain(graph)
    width = chain.layers[layer].weight.shape[0]
    basis = np.linalg.qr(rng.normal(size=(width, rank)))[0]
    factor = make_factor(chain.layers[layer], basis, rng.normal(size=width) * watched, watched=watched)
    certificate = deviation(chain, {layer: factor})
    rows = rng.normal(size=(40, 10)).astype(np.float32)
    current, missed = rows, {}
    size = np.linalg.norm((rows - factor.mean.astype(np.float32)) if layer == 0 else rows, axis=1)
    for number, each in enumerate(chain.layers):
        if number == layer:
            d = current - factor.mean.astype(np.float32)
            code = d @ factor.basis.astype(np.float32)
            if watched:
                missed[number] = np.linalg.norm(d - code @ factor.basis.astype(np.float32).T, axis=1)
            current = code @ factor.middle.astype(np.float32) + factor.shift.astype(np.float32)
        else:
            current = current @ each.weight.astype(np.float32) + each.bias.astype(np.float32)
        if number < 2:
            current = np.maximum(current, 0)
    error = np.abs(current - interpreter.run(graph, rows)).max(axis=1)
    assert (error <= certificate.of(size.astype(np.float64), missed)).all()


def test_a_thin_matrix_is_factored_for_any_traffic() -> None:
    graph = make_graph([40, 40, 4])
    first = graph.nodes[0]
    rng = np.random.default_rng(0)
    thin = (rng.normal(size=(40, 2)) @ rng.normal(size=(2, 40)) / 40).astype(np.float32)
    first.constants["weight"][:] = thin  # type: ignore[index]  # a test's own array
    rows = rng.normal(size=(300, 40)).astype(np.float32)
    found = found_in(graph, rows)
    assert found.factors[0].rank == 2 and not found.factors[0].watched
    refused, error = refused_and_error(compiled(found.graph, wide_box(40)), graph, rows[:100])
    assert not refused.any() and error.max() <= found.bound


def test_the_replacement_is_certified(network: Graph, made: LowRank) -> None:
    found = low_rank(network, thin_rows(400, 1), Policy())
    assert isinstance(found, Replacement) and not found.exact
    assert found.certified is not None
    assert found.certified.kind is EvidenceKind.CERTIFIED and found.certified.bound == made.bound
    assert "layer 0: 3 of 48" in found.note


@pytest.mark.parametrize(
    ("graph", "rows", "reason"),
    [
        (make_graph([8, 16, 2], Op.TANH), lambda: thin_rows(300, 0, inputs=8), "not a chain of matrices and ReLUs"),
        (make_graph([INPUTS, 16, 2]), lambda: thin_rows(20, 0), "20 calibration rows"),
        (make_graph([INPUTS, 64, 2]), lambda: thin_rows(300, 0, noise=1.0), "no layer's input or matrix is thin"),
    ],
)
def test_it_declines_with_the_reason(graph: Graph, rows: Callable[[], Rows], reason: str) -> None:
    found = find_low_rank(graph, rows(), max_deviation=1e-4)
    assert isinstance(found, Declined)
    assert reason in found.reason


def test_a_bound_that_says_nothing_is_not_stated(network: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "MAX_ROUNDING", 1e-6)
    found = find_low_rank(network, thin_rows(400, 1), max_deviation=1e-4)
    assert isinstance(found, Declined)
    assert "rounding alone may change an output by" in found.reason
