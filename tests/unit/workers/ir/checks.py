"""How an import is judged: against PyTorch, against ONNX Runtime, and by the round trips of our own formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from ecompile_workers.ir import onnx_importer, serialize, to_onnx
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.interpreter import run
from numpy.typing import NDArray

Rows = NDArray[Any]


def rows_for(graph: Graph, count: int, seed: int, *, words: int = 20) -> Rows:
    """Random inputs; integers below `words` where the network reads integers."""
    rng = np.random.default_rng(seed)
    if graph.input.dtype.value == "int64":
        return rng.integers(0, words, size=(count, *graph.input.shape))
    return rng.normal(size=(count, *graph.input.shape)).astype(np.float32)


def onnx_runtime(model: onnx.ModelProto, x: Rows) -> Rows:
    """The one output of a model with one input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Rows = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def assert_close(found: Rows, expected: Rows, tolerance: float = 2e-5) -> None:
    """Equal but for float32 rounding, relative to the largest value."""
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(finite, np.isfinite(found))
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    np.testing.assert_allclose(found[finite], expected[finite], atol=tolerance * scale, rtol=0)


def assert_round_trips(graph: Graph, x: Rows) -> None:
    """Our JSON gives the same graph; our ONNX gives the same numbers in ONNX Runtime and through the importer."""
    expected = run(graph, x)
    text, weights = serialize.dump(graph)
    stored = serialize.load(text, weights)
    assert serialize.dump(stored) == (text, weights)
    np.testing.assert_array_equal(run(stored, x), expected)
    exported = to_onnx.export(graph)
    assert_close(onnx_runtime(exported, x), expected)
    again = onnx_importer.import_model(exported, name="again")
    assert not again.opaque_operators
    assert_close(run(again, x), expected, 1e-6)
