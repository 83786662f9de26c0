"""The operator and the serving pod never import torch, nor what only Jobs need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ecompile_operator.main", ["torch", "numpy", "onnx", "onnxruntime"]),
        ("ecompile_workers.serving.__main__", ["torch", "onnx", "sympy", "sklearn"]),
    ],
)
def test_process_does_not_import(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print(sorted(set({forbidden!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
