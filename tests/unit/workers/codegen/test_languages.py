"""Rust and Python of every operator against the float64 interpreter."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mypy.api
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ecompile_workers.codegen.emit import Language, emit
from ecompile_workers.codegen.levels import LEVELS
from ecompile_workers.codegen.lowering.base import Unsupported
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor
from ecompile_workers.ir.torch_importer import import_module
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from ..ir.torch_cases import CASES, Function, few
from ..networks import make_graph
from .test_operators import LARGE

Rows = NDArray[np.float32]
RUSTC = shutil.which("rustc")
RUST_ROWS = 2


def write(graph: Graph, language: Language, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in emit(graph, language).items():
        (folder / name).write_bytes(content)


def inputs_of(graph: Graph, count: int, words: int = 0) -> Rows:
    rng = np.random.default_rng(0)
    if words:
        return rng.integers(0, words, (count, graph.input.size)).astype(np.float32)
    return rng.normal(size=(count, graph.input.size)).astype(np.float32)


def assert_equals_interpreter(graph: Graph, x: Rows, y: Rows) -> None:
    expected = interpreter.run(graph, x.reshape(len(x), *graph.input.shape)).reshape(len(x), -1)
    finite = np.isfinite(expected)
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    np.testing.assert_allclose(y, expected, atol=2e-5 * scale, rtol=2e-5)


def run_python(graph: Graph, x: Rows, folder: Path) -> Rows:
    write(graph, Language.PYTHON, folder)
    spec = importlib.util.spec_from_file_location("emitted", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    y: Rows = module.run(x)
    return y


def example(draw: Any, name: str) -> tuple[Graph, int]:
    """A graph, and how many words its input has where it reads words."""
    torch.manual_seed(0)
    case = CASES[name](draw)
    tensor = torch.zeros(2, *case.shape, dtype=torch.int64) if case.words else torch.randn(2, *case.shape)
    return import_module(case.module.eval(), tensor, name=name), case.words


@pytest.mark.parametrize("name", sorted(CASES))
@few(2)
@given(data=st.data())
def test_python_equals_the_interpreter(name: str, tmp_path: Path, data: Any) -> None:
    graph, words = example(data.draw, name)
    if graph.output.dtype is not DType.FLOAT32:
        pytest.skip("segments exchange float32")
    x = inputs_of(graph, 3, words)
    assert_equals_interpreter(graph, x, run_python(graph, x, tmp_path))


def large(name: str) -> Graph:
    torch.manual_seed(0)
    make, shape = LARGE[name]
    return import_module(make().eval(), torch.randn(2, *shape), name=name)


@pytest.mark.parametrize("name", LARGE)
def test_python_of_large_shapes_equals_the_interpreter(name: str, tmp_path: Path) -> None:
    graph = large(name)
    x = inputs_of(graph, 2)
    assert_equals_interpreter(graph, x, run_python(graph, x, tmp_path))


MAIN = """
use std::io::{Read, Write};
fn main() {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).unwrap();
    let x: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let y = match std::env::args().nth(1).unwrap().as_str() {
@ARMS@
        _ => panic!(),
    };
    let bytes: Vec<u8> = y.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::io::stdout().write_all(&bytes).unwrap();
}
"""
ARM = (
    '        "m{n}" => {{ let mut y = vec![0f32; x.len() / m{n}::INPUTS * m{n}::OUTPUTS]; '
    "m{n}::Model::new().run(&x, &mut y); y }}"
)


def every_function(x: torch.Tensor) -> torch.Tensor:
    a, b = x[:, ::2], x.flip(1)[:, ::2]
    parts = [torch.minimum(a, b), torch.maximum(a, b), torch.where(a < b, a, -b), ((a >= b) | ~(a == b)).float()]
    parts += [a.abs().sqrt(), (b.abs() + 0.1).log(), a.exp(), torch.erf(a), F.leaky_relu(b), a.clamp(-0.5, 0.7)]
    parts += [torch.tanh(a), F.silu(b), F.hardswish(a * 3), F.gelu(b, approximate="tanh"), a.amin(1, keepdim=True)]
    return torch.cat([*parts, torch.softmax(x, 1), x.max(1, keepdim=True).values], 1)


def more() -> dict[str, tuple[Graph, int]]:
    """Graphs that the large shapes leave out, and their number of words."""
    torch.manual_seed(0)
    words = import_module(nn.Embedding(9, 5).eval(), torch.zeros(2, 4, dtype=torch.int64), name="words")
    functions = import_module(Function(every_function).eval(), torch.randn(2, 12), name="functions")
    return {"embedding": (words, 9), "every function": (functions, 0)}


RUST: dict[str, Callable[[], tuple[Graph, int]]] = {
    **{name: partial(lambda name: (large(name), 0), name) for name in LARGE},
    **{name: partial(lambda name: more()[name], name) for name in ("embedding", "every function")},
}


@pytest.fixture(scope="module")
def rust_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Graph, int, str]]]:
    """One program with a module for each graph."""
    assert RUSTC is not None
    folder = tmp_path_factory.mktemp("rust")
    graphs = {name: (*make(), f"m{n}") for n, (name, make) in enumerate(RUST.items())}
    for graph, _, module in graphs.values():
        write(graph, Language.RUST, folder / module)
    heads = "\n".join(f'#[path = "m{n}/model.rs"] mod m{n};' for n in range(len(graphs)))
    arms = "\n".join(ARM.format(n=n) for n in range(len(graphs)))
    (folder / "main.rs").write_text(heads + MAIN.replace("@ARMS@", arms))
    command = [RUSTC, "--edition", "2021", "-C", "opt-level=0", "-o", "program", "main.rs"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=500)
    return folder / "program", graphs


@pytest.mark.skipif(RUSTC is None, reason="rustc is not installed")
@pytest.mark.parametrize("name", RUST)
def test_rust_equals_the_interpreter(name: str, rust_program: tuple[Path, dict[str, tuple[Graph, int, str]]]) -> None:
    program, graphs = rust_program
    graph, words, module = graphs[name]
    x = inputs_of(graph, RUST_ROWS, words)
    done = subprocess.run([str(program), module], input=x.tobytes(), capture_output=True, check=True, timeout=300)
    y = np.frombuffer(done.stdout, np.float32).reshape(RUST_ROWS, -1)
    assert_equals_interpreter(graph, x, y)


def test_python_passes_the_strict_type_check(tmp_path: Path) -> None:
    for name, graph in (("functions", more()["every function"][0]), ("block", large("transformer block, odd"))):
        write(graph, Language.PYTHON, tmp_path / name)
        out, _, status = mypy.api.run(["--strict", "--config-file=", str(tmp_path / name / "model.py")])
        assert status == 0, out


@pytest.mark.parametrize("language", [Language.RUST, Language.PYTHON])
def test_unknown_operators_are_refused_by_name(language: Language) -> None:
    x, y = Tensor(name="x", shape=(3,)), Tensor(name="y", shape=(3,))
    node = Node(op=Op.OPAQUE, inputs=("x",), output=y, source="com.example.Strange")
    with pytest.raises(Unsupported, match=r"^com\.example\.Strange$"):
        emit(Graph(input=x, output=y, nodes=(node,)), language)


@pytest.mark.parametrize("language", Language)
def test_equal_graphs_give_equal_files(language: Language) -> None:
    first, second = (emit(make_graph([5, 7, 2]), language, levels=list(LEVELS)) for _ in range(2))
    assert first == second and first
