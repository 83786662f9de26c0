"""Generated code against the float64 interpreter and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ecompile_workers.codegen.abi import GuardBox, Reason
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op
from ecompile_workers.ir.load import load_source
from ecompile_workers.ir.to_onnx import export
from hypothesis import given, settings
from hypothesis import strategies as st

from ..networks import make_graph, wide_box

LEVELS = cpu_levels()


def build(graph: Graph, guard: GuardBox | None = None, *, level: str = LEVELS[0]) -> CompiledFunction:
    compiled = compile_graph(graph, guard or wide_box(graph.input.size), levels=[level], optimisation="O2")
    return CompiledFunction(compiled.libraries[level], macs=compiled.macs)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    rows=st.integers(1, 70),
    activation=st.sampled_from([Op.RELU, Op.TANH, Op.SIGMOID]),
    last=st.sampled_from([None, Op.SOFTMAX, Op.SIGMOID]),
    seed=st.integers(0, 1000),
)
def test_generated_code_equals_interpreter_and_onnx_runtime(
    sizes: list[int], rows: int, activation: Op, last: Op | None, seed: int
) -> None:
    graph = make_graph(sizes, activation, seed=seed, last=last)
    x = np.random.default_rng(seed).normal(size=(rows, sizes[0])).astype(np.float32)
    reason, y = build(graph)(x)
    assert reason is Reason.OK
    np.testing.assert_allclose(y, interpreter.run(graph, x), atol=5e-5, rtol=5e-5)
    session = onnxruntime.InferenceSession(export(graph).SerializeToString())
    np.testing.assert_allclose(y, session.run(None, {"x": x})[0], atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_this_machine_computes_the_same(level: str) -> None:
    graph = make_graph([33, 65, 9])
    x = np.random.default_rng(3).normal(size=(17, 33)).astype(np.float32)
    reason, y = build(graph, level=level)(x)
    assert reason is Reason.OK
    np.testing.assert_allclose(y, interpreter.run(graph, x), atol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.5, -2.5])
def test_guard_refuses_and_leaves_the_output_untouched(bad: float) -> None:
    graph = make_graph([19, 8])
    module = build(graph, wide_box(19, reach=2.0))
    for position in range(19):
        x = np.zeros((3, 19), np.float32)
        x[1, position] = bad
        y = np.full((3, 8), 7.0, np.float32)
        assert module.run(x, y) == Reason.OUTSIDE_GUARD
        assert (y == 7.0).all()


def test_non_finite_output_is_refused() -> None:
    graph = make_graph([4, 4])
    weight = graph.nodes[0].constants["weight"]
    weight[:] = 3e38
    reason, _ = build(graph)(np.full((1, 4), 100.0, np.float32))
    assert reason is Reason.NON_FINITE_OUTPUT


def test_large_batches_are_several_calls() -> None:
    graph = make_graph([8, 16, 3])
    module = build(graph)
    x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    reason, y = module(x)
    assert reason is Reason.OK
    np.testing.assert_allclose(y, interpreter.run(graph, x), atol=2e-5)


def test_wrong_buffer_sizes_raise() -> None:
    module = build(make_graph([8, 3]))
    with pytest.raises(ValueError, match="rows of 32 and 12 bytes"):
        module.run(np.zeros(7, np.float32), np.zeros(3, np.float32))


def test_equal_input_gives_equal_bytes() -> None:
    graph = make_graph([8, 16, 3])
    first, second = (compile_graph(graph, wide_box(8), levels=[LEVELS[0]]) for _ in range(2))
    assert first.libraries == second.libraries and first.sources == second.sources


@pytest.mark.parametrize("name", ["mlp/digits.onnx", "mlp/digits.pt2", "mlp/digits_dynamo.onnx", "tiny/ad01.onnx"])
def test_real_networks(shared_models: Path, name: str) -> None:
    source = load_source(shared_models / name)
    x = np.random.default_rng(0).normal(size=(9, source.graph.input.size)).astype(np.float32)
    expected = interpreter.run(source.graph, x)
    reason, y = build(source.graph)(x)
    assert reason is Reason.OK
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(y - expected).max()) <= 1e-4 * scale


def test_pt2_and_onnx_of_one_network_are_equal(shared_models: Path) -> None:
    graphs = [load_source(shared_models / "mlp" / f"digits.{kind}").graph for kind in ("onnx", "pt2")]
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_allclose(interpreter.run(graphs[0], x), interpreter.run(graphs[1], x), atol=1e-9)
