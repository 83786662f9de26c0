"""What the serving process may import."""

from __future__ import annotations

import subprocess
import sys


def test_serving_imports_no_training_library() -> None:
    """Neither torch nor onnx nor the libraries of distillation: start-up time, image size, attack surface."""
    script = (
        "import sys, ecompile_workers.serving.__main__, ecompile_workers.serving.local\n"
        "found = [m for m in ('torch', 'onnx', 'sympy', 'sklearn', 'scipy', 'kubernetes') if m in sys.modules]\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
