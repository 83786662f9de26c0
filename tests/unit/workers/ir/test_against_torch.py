"""Every operator from a live PyTorch module: the interpreter against PyTorch, and all round trips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.torch_importer import import_module
from hypothesis import given
from hypothesis import strategies as st

from .checks import assert_close, assert_round_trips, rows_for
from .torch_cases import CASES, few


@pytest.mark.parametrize("name", sorted(CASES))
@few(3)
@given(data=st.data())
def test_operator_equals_pytorch_and_onnx_runtime(name: str, data: Any) -> None:
    torch.manual_seed(0)
    case = CASES[name](data.draw)
    module = case.module.eval()
    example = torch.zeros(2, *case.shape, dtype=torch.int64) if case.words else torch.randn(2, *case.shape)
    graph = import_module(module, example, name=name)
    assert not graph.opaque_operators
    x = rows_for(graph, data.draw(st.integers(2, 4)), seed=1, words=case.words)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert_close(run(graph, x), expected)
    assert_round_trips(graph, x)
