"""Bounds of units: nothing that an attack finds lies outside, in either implementation."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ecompile_workers.certify import checker
from ecompile_workers.certify.bounds import bounds
from ecompile_workers.certify.network import NotAChain, read_chain
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op
from ecompile_workers.ir.load import load_source
from hypothesis import given, settings
from hypothesis import strategies as st

from ..networks import make_graph
from .attack import extremes, preactivations
from .cases import normed_graph

ACAS = ("1_1", "1_9", "2_9", "3_3", "4_5")
ROUNDING = 1e-11
"""Of evaluating the attacked value in float64, relative to 1."""


def boxes(inputs: int, seed: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middle, reach = rng.normal(size=inputs), width * rng.random(inputs)
    return middle - reach, middle + reach


def assert_holds(graph: Graph, lower: np.ndarray, upper: np.ndarray, seed: int) -> None:
    chain = read_chain(graph)
    ours = bounds(chain, lower[None], upper[None])
    theirs = checker.unit_ranges(checker.read_layers(graph), checker.Range(lower, upper))
    for depth, unit, least, greatest in extremes(chain, lower, upper, seed=seed):
        slack = ROUNDING * (1 + max(abs(least), abs(greatest)))
        for found in (
            (ours[depth].lower[0, unit], ours[depth].upper[0, unit]),
            (theirs[depth].lower[unit], theirs[depth].upper[unit]),
        ):
            assert found[0] - slack <= least <= greatest <= found[1] + slack, (depth, unit)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    seed=st.integers(0, 2**16),
    width=st.sampled_from([0.0, 1e-6, 0.01, 0.3, 3.0, 100.0]),
)
def test_no_attack_leaves_the_bounds_of_random_networks(sizes: list[int], seed: int, width: float) -> None:
    assert_holds(make_graph(sizes, seed=seed), *boxes(sizes[0], seed, width), seed)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=3, max_size=4), seed=st.integers(0, 2**16))
def test_no_attack_leaves_the_bounds_behind_batch_norms(sizes: list[int], seed: int) -> None:
    assert_holds(normed_graph(sizes, seed=seed), *boxes(sizes[0], seed, 0.3), seed)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), reach=st.integers(1, 60))
def test_bounds_hold_the_exact_range_of_one_input(seed: int, reach: int) -> None:
    """With one input all breakpoints can be found, and the range is known in rational numbers."""
    graph = make_graph([1, 5, 1], seed=seed)
    lower, upper = -reach / 16, reach / 16
    first, second = read_chain(graph).layers

    def output(x: Fraction) -> Fraction:
        hidden = (Fraction(w) * x + Fraction(b) for w, b in zip(first.weight[0], first.bias, strict=True))
        terms = zip(second.weight[:, 0], hidden, strict=True)
        return Fraction(second.bias[0]) + sum(Fraction(w) * max(h, Fraction(0)) for w, h in terms)

    kinks = [-Fraction(b) / Fraction(w) for w, b in zip(first.weight[0], first.bias, strict=True) if w]
    points = [Fraction(lower), Fraction(upper), *(k for k in kinks if lower < k < upper)]
    values = [output(x) for x in points]
    found = bounds(read_chain(graph), np.array([[lower]]), np.array([[upper]]))[-1]
    own = checker.unit_ranges(checker.read_layers(graph), checker.Range(np.array([lower]), np.array([upper])))[-1]
    for low, high in ((found.lower[0, 0], found.upper[0, 0]), (own.lower[0], own.upper[0])):
        assert Fraction(low) <= min(values) <= max(values) <= Fraction(high)


def test_bounds_of_many_boxes_are_those_of_each() -> None:
    chain = read_chain(make_graph([4, 9, 7, 3], seed=5))
    pairs = [boxes(4, seed, 0.5) for seed in range(6)]
    together = bounds(chain, np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))
    for index, (lower, upper) in enumerate(pairs):
        alone = bounds(chain, lower[None], upper[None])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a.lower[index], b.lower[0], atol=1e-12)
            np.testing.assert_allclose(a.upper[index], b.upper[0], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_computes_what_the_graph_does(seed: int) -> None:
    graph = normed_graph([4, 7, 6, 3], seed=seed)
    rows = np.random.default_rng(seed).normal(size=(50, 4))
    chain = read_chain(graph)
    np.testing.assert_allclose(preactivations(chain, rows)[-1], interpreter.run(graph, rows), rtol=1e-12, atol=1e-12)


def test_a_graph_with_another_activation_is_no_chain() -> None:
    with pytest.raises(NotAChain, match="neither affine nor a ReLU"):
        read_chain(make_graph([3, 4, 2], Op.TANH))


@pytest.mark.parametrize("name", ACAS)
def test_no_attack_leaves_the_bounds_of_acas(shared_models: Path, name: str) -> None:
    path = shared_models / "acasxu" / f"ACASXU_run2a_{name}_batch_2000.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing")
    rng = np.random.default_rng(7)
    low, high = np.array([-0.3035, -0.5, -0.5, -0.5, -0.5]), np.array([0.6799, 0.5, 0.5, 0.5, 0.5])
    middle = low + (high - low) * rng.random(5)
    reach = 0.03 * (high - low)
    assert_holds(load_source(path).graph, middle - reach, middle + reach, 7)
