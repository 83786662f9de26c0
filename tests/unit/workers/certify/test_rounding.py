"""Bounds of float32 rounding: evaluation in any order stays within, for the source and for reduced networks."""

from __future__ import annotations

import numpy as np
import pytest
from ecompile_workers.certify.bounds import bounds
from ecompile_workers.certify.network import Chain, read_chain
from ecompile_workers.certify.prove import prove
from ecompile_workers.certify.regions import Region
from ecompile_workers.certify.rounding import evaluation_error, gamma32, source_stages
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.to_onnx import export
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ..networks import make_graph
from .attack import preactivations
from .cases import as_float32, box_rows, normed_graph


def reduced_float32(region: Region, rows: NDArray[np.float32], *, backwards: bool) -> NDArray[np.float32]:
    """The region's steps in float32, term by term."""
    state = rows
    for number, step in enumerate(region.steps):
        order = range(len(step.weight))
        total = np.broadcast_to(step.bias, (len(rows), step.bias.size)).copy()
        for k in reversed(order) if backwards else order:
            total = total + state[:, step.start + k, None] * step.weight[k]
        state = np.concatenate([state, np.maximum(total, 0)], axis=1) if number < len(region.steps) - 1 else total
    return state


def source_bound(chain: Chain, lower: NDArray[np.float32], upper: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = lower.astype(np.float64), upper.astype(np.float64)
    z = bounds(chain, wide[0][None], wide[1][None])
    return evaluation_error(source_stages(chain, z, 0), np.maximum(np.abs(wide[0]), np.abs(wide[1])))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 24), min_size=2, max_size=5),
    seed=st.integers(0, 2**16),
    width=st.sampled_from([0.0, 0.01, 0.3, 10.0]),
    backwards=st.booleans(),
)
def test_float32_stays_within_the_bound(sizes: list[int], seed: int, width: float, backwards: bool) -> None:
    chain = read_chain(make_graph(sizes, seed=seed))
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=sizes[0])
    lower, upper = (middle - width).astype(np.float32), (middle + width).astype(np.float32)
    rows = box_rows(lower, upper, 60, seed=seed)
    exact = preactivations(chain, rows.astype(np.float64))[-1]
    error = np.abs(as_float32(chain, rows, backwards=backwards) - exact).max(axis=0)
    assert (error <= source_bound(chain, lower, upper) + 1e-13).all()
    region = prove(chain, lower, upper)
    ours = reduced_float32(region, rows, backwards=backwards)
    assert (np.abs(ours - exact).max(axis=0) <= np.array(region.real_bound) + 1e-13).all()


@pytest.mark.parametrize("seed", range(4))
def test_onnx_runtime_stays_within_the_bound(seed: int) -> None:
    """A foreign float32 evaluation, batch norms and all."""
    session = pytest.importorskip("onnxruntime").InferenceSession
    graph = normed_graph([6, 30, 20, 4], seed=seed)
    lower, upper = np.full(6, -0.5, np.float32), np.full(6, 0.5, np.float32)
    rows = box_rows(lower, upper, 500, seed=seed)
    model = session(export(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = model.run(None, {model.get_inputs()[0].name: rows})[0]
    error = np.abs(theirs - interpreter.run(graph, rows)).max(axis=0)
    bound = source_bound(read_chain(graph), lower, upper)
    assert (error <= bound).all()


def test_the_bound_is_not_vacuous() -> None:
    """Within three orders of magnitude of what happens, on a small network."""
    chain = read_chain(make_graph([5, 16, 16, 2], seed=3))
    lower, upper = np.full(5, -0.1, np.float32), np.full(5, 0.1, np.float32)
    rows = box_rows(lower, upper, 2000, seed=3)
    exact = preactivations(chain, rows.astype(np.float64))[-1]
    error = np.abs(as_float32(chain, rows, backwards=False) - exact).max(axis=0)
    assert (source_bound(chain, lower, upper) < 1000 * error).all()


def test_too_many_roundings_have_no_bound() -> None:
    assert gamma32(1 << 24) == float("inf")
    assert gamma32(100) > 100 * 2.0**-24
