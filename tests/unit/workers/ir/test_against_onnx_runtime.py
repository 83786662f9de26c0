"""Every operator from ONNX, opset 8 to 21: the interpreter against ONNX Runtime, and all round trips."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from ecompile_workers.ir import onnx_importer
from ecompile_workers.ir.interpreter import run
from hypothesis import given
from hypothesis import strategies as st

from .checks import assert_close, assert_round_trips, onnx_runtime, rows_for
from .onnx_cases import CASES
from .torch_cases import few


@pytest.mark.parametrize("name", sorted(CASES))
@few(5)
@given(data=st.data())
def test_operator_equals_onnx_runtime(name: str, data: Any) -> None:
    model = CASES[name](data.draw).build()
    onnx.checker.check_model(model)
    graph = onnx_importer.import_model(model, name=name)
    assert not graph.opaque_operators
    x = rows_for(graph, data.draw(st.integers(1, 4)), seed=2)
    assert_close(run(graph, x), onnx_runtime(model, x))
    assert_round_trips(graph, x)
