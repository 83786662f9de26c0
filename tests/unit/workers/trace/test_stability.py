"""Stability: the figures are those of the definition, for every operator, and the manifest is the same each time."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from ecompile_workers.ir import onnx_importer
from ecompile_workers.ir.attributes import Convolution, Order, Pool, Target
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.interpreter import run
from ecompile_workers.trace import capture, nfrtrace
from ecompile_workers.trace.grouping import Method, grouped, merged
from ecompile_workers.trace.manifest import manifest, ranges
from ecompile_workers.trace.stability import Moments, measure, measure_records
from ecompile_workers.trace.units import influence, layers, unit_axes
from hypothesis import given, settings
from hypothesis import strategies as st

from ..ir.checks import rows_for
from ..ir.onnx_cases import CASES
from ..ir.torch_cases import few
from ..networks import make_graph

ROWS = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def test_figures_of_a_dense_layer_are_those_of_the_definition() -> None:
    graph = make_graph([16, 32, 4])
    (found,) = measure(graph, ROWS)
    values: dict[str, Any] = {}
    run(graph, ROWS, visit=lambda node, v: values.update({node.output.name: v}))
    hidden = np.abs(values["a0"])
    np.testing.assert_allclose(found.stability, 1 - hidden.std(axis=0) / (hidden.mean(axis=0) + 1e-6), atol=1e-12)
    reader = np.linalg.norm(graph.nodes[2].constants["weight"].astype(float), axis=1)
    np.testing.assert_allclose(found.impact, hidden.mean(axis=0) * reader)
    assert found.layer == "a0" and found.operator == "relu" and found.samples == 300


def test_unit_that_never_fires_is_dead() -> None:
    graph = make_graph([16, 8, 4])
    graph.nodes[0].constants["bias"][3] = -1e6
    (found,) = measure(graph, ROWS)
    assert np.flatnonzero(found.dead).tolist() == [3]


@settings(derandomize=True, database=None, deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1e8))
def test_moments_of_blocks_are_those_of_all_rows(sizes: list[int], offset: float) -> None:
    rng = np.random.default_rng(len(sizes))
    blocks = [rng.normal(size=(n, 3)) + offset for n in sizes]
    moments = Moments(3)
    for block in blocks:
        moments.add(block)
    magnitude = np.abs(np.concatenate(blocks))
    expected = 1 - magnitude.std(axis=0) / (magnitude.mean(axis=0) + 1e-6)
    np.testing.assert_allclose(moments.stability, expected, atol=1e-9)


@pytest.mark.parametrize("name", sorted(CASES))
@few(2)
@given(data=st.data())
def test_every_operator_is_measured(name: str, data: Any) -> None:
    graph = onnx_importer.import_model(CASES[name](data.draw).build(), name=name)
    axes = unit_axes(graph)
    assert all(0 <= axes[t.name] < max(1, len(t.shape)) for t in graph.tensors.values())
    read = influence(graph, axes)
    assert all(np.isfinite(values).all() for values in read.values())
    found = measure(graph, rows_for(graph, 6, seed=1))
    assert [layer.layer for layer in found] == [node.output.name for node in layers(graph)]
    for layer in found:
        assert np.isfinite(layer.stability).all() and np.isfinite(layer.impact).all()


def image_net() -> Graph:
    """conv -> relu -> pool -> flatten -> dense."""
    rng = np.random.default_rng(0)
    same = Convolution(strides=(1, 1), dilations=(1, 1), begin=(1, 1), end=(1, 1))
    pool = Pool(kernel=(2, 2), strides=(2, 2), dilations=(1, 1), begin=(0, 0), end=(0, 0))
    kernel = {"weight": rng.normal(size=(5, 2, 3, 3)).astype(np.float32), "bias": np.zeros(5, np.float32)}
    dense = {"weight": rng.normal(size=(20, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    x, y = Tensor(name="x", shape=(2, 4, 4)), Tensor(name="y", shape=(3,))
    nodes = (
        Node(op=Op.CONV, inputs=("x",), output=Tensor(name="c", shape=(5, 4, 4)), constants=kernel, attributes=same),
        Node(op=Op.RELU, inputs=("c",), output=Tensor(name="r", shape=(5, 4, 4))),
        Node(op=Op.MAX_POOL, inputs=("r",), output=Tensor(name="p", shape=(5, 2, 2)), attributes=pool),
        Node(op=Op.RESHAPE, inputs=("p",), output=Tensor(name="f", shape=(20,)), attributes=Target(shape=(20,))),
        Node(op=Op.GEMM, inputs=("f",), output=y, constants=dense),
    )
    return Graph(input=x, output=y, nodes=nodes)


def test_units_of_images_are_channels_and_weights_are_found_behind_pooling_and_flattening() -> None:
    graph = image_net()
    relu, pool = measure(graph, np.random.default_rng(1).normal(size=(40, 2, 4, 4)).astype(np.float32))
    assert len(relu.stability) == len(pool.stability) == 5 and relu.samples == 40 * 16
    weight = graph.nodes[-1].constants["weight"].astype(float)
    np.testing.assert_allclose(relu.impact / relu.mean, np.linalg.norm(weight.reshape(5, -1), axis=1))


def test_units_follow_a_transposition() -> None:
    x = Tensor(name="x", shape=(3, 4, 4))
    order = Order(order=(1, 2, 0))
    node = Node(op=Op.TRANSPOSE, inputs=("x",), output=Tensor(name="t", shape=(4, 4, 3)), attributes=order)
    assert unit_axes(Graph(input=x, output=node.output, nodes=(node,))) == {"x": 0, "t": 2}


def test_memory_does_not_grow_with_the_rows() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    graph = make_graph([16, 256, 256, 4])
    peaks = []
    for count in (256, 2048):
        rows = np.zeros((count, 16), np.float32) + ROWS[:1]
        tracemalloc.start()
        measure(graph, rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_trace_gives_the_figures_of_the_graph() -> None:
    graph, target = make_graph([16, 32, 4]), io.BytesIO()
    capture.capture(graph, ROWS, target, model_digest="sha256:0", rate=1.0, seed=0)
    _, records = nfrtrace.read(target.getvalue())
    found = {layer.layer: layer for layer in measure_records(records)}
    (exact,) = measure(graph, ROWS)
    np.testing.assert_allclose(found["a0"].stability, exact.stability, atol=1e-6)
    assert set(found) == {"z0", "a0", "z1"}


@pytest.mark.parametrize("method", list(Method))
def test_manifest_is_the_same_each_time_and_ranks_by_score(method: Method) -> None:
    found = measure(make_graph([16, 64, 64, 4]), ROWS)
    content = manifest(found, model_digest="sha256:0", method=method)
    assert content == manifest(measure(make_graph([16, 64, 64, 4]), ROWS), model_digest="sha256:0", method=method)
    told = json.loads(content)
    assert told["units"] == 128 and len(told["top"]) == 50 and told["grouping"]["method"] == method
    scores = [unit["score"] for unit in told["top"]]
    assert scores == sorted(scores, reverse=True)
    assert told["groups"] and all(group["units"] >= 1 for group in told["groups"])


@pytest.mark.parametrize("method", list(Method))
def test_two_kinds_of_units_are_two_groups(method: Method) -> None:
    rng = np.random.default_rng(0)
    stability = np.concatenate([rng.normal(0.9, 0.01, 40), rng.normal(0.1, 0.01, 40)])
    impact = np.concatenate([rng.normal(1.0, 0.01, 40), rng.normal(0.2, 0.01, 40)])
    found = grouped(stability, impact, np.zeros(80, np.int64), method=method, seed=0)
    if method is Method.DBSCAN:
        assert [set(g) for g in found] == [set(range(40)), set(range(40, 80))]
    assert all(len({int(i) // 40 for i in group}) == 1 for group in found)


def test_many_units_are_grouped_on_a_grid_like_few() -> None:
    rng = np.random.default_rng(0)
    half = 10_000
    stability = np.concatenate([rng.uniform(0.8, 0.9, half), rng.uniform(0.1, 0.2, half)])
    found = grouped(stability, np.ones(2 * half), np.zeros(2 * half, np.int64), method=Method.DBSCAN, seed=0)
    assert [len(group) for group in found] == [half, half]


def test_groups_that_cover_each_other_are_one() -> None:
    groups = [np.arange(10), np.arange(1, 10), np.arange(20, 30), np.arange(28, 36)]
    assert [g.tolist() for g in merged(groups, 40)] == [list(range(10)), list(range(20, 30)), list(range(28, 36))]
    chain = [np.arange(0, 10), np.array([*range(1, 10), 10]), np.array([9, 10])]
    assert [g.tolist() for g in merged(chain, 11)] == [list(range(11))]


def test_ranges() -> None:
    assert ranges(np.array([0, 1, 2, 5, 7, 8])) == "0-2,5,7-8"
    assert ranges(np.array([], dtype=np.int64)) == ""
