"""The same source on other machines: arm64 under emulation, WebAssembly, and what loading picks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ecompile_crds.errors import ResourceError
from ecompile_workers.codegen import toolchain
from ecompile_workers.codegen.abi import Reason
from ecompile_workers.codegen.c_printer import print_c
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import LEVELS, supported
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Op
from ecompile_workers.ir.torch_importer import import_module

from ..networks import make_graph, wide_box
from .foreign import WebAssembly, arm64, missing_for_arm64
from .test_operators import LARGE

needs_arm64 = pytest.mark.skipif(missing_for_arm64() is not None, reason=f"{missing_for_arm64()}")
needs_cross_compiler = pytest.mark.skipif(
    not toolchain.has_cross_compiler(), reason=f"the package {toolchain.CROSS_COMPILER} is not installed"
)
SMALL = {
    "dense": lambda: make_graph([33, 65, 9], Op.TANH, last=Op.SOFTMAX),
    "convolutions": lambda: imported("conv, norm, pool, head"),
    "transformer block": lambda: imported("transformer block, odd"),
}


def imported(name: str) -> Graph:
    torch.manual_seed(0)
    make, shape = LARGE[name]
    return import_module(make().eval(), torch.randn(2, *shape), name=name)


def rows_of(graph: Graph, count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, graph.input.size)).astype(np.float32)


def expected_of(graph: Graph, x: np.ndarray) -> np.ndarray:
    return interpreter.run(graph, x.reshape(-1, *graph.input.shape)).reshape(len(x), -1)


@needs_arm64
@pytest.mark.parametrize("name", SMALL)
def test_arm64_code_equals_the_interpreter(name: str, tmp_path: Path) -> None:
    graph = SMALL[name]()
    printed = print_c(graph, wide_box(graph.input.size), LEVELS["arm64"])
    x = rows_of(graph, 11)
    y = arm64(printed.source, printed.weights, graph.output.size, tmp_path).run(x)
    np.testing.assert_allclose(y, expected_of(graph, x), atol=2e-5, rtol=2e-5)


@needs_cross_compiler
@pytest.mark.parametrize("name", SMALL)
def test_web_assembly_equals_the_interpreter(name: str) -> None:
    pytest.importorskip("wasmtime", reason="the package wasmtime is not installed")
    graph = SMALL[name]()
    module = WebAssembly(compile_graph(graph, wide_box(graph.input.size), levels=["wasm32"]))
    x = rows_of(graph, 11)
    reason, y = module.run(x)
    assert reason == Reason.OK
    np.testing.assert_allclose(y, expected_of(graph, x), atol=2e-5, rtol=2e-5)
    x[3, 0] = np.nan
    assert module.run(x)[0] == Reason.OUTSIDE_GUARD


@needs_cross_compiler
@pytest.mark.parametrize("level", ["arm64", "wasm32"])
def test_cross_compiled_bytes_are_equal_each_time(level: str) -> None:
    graph = make_graph([8, 16, 3])
    first, second = (compile_graph(graph, wide_box(8), levels=[level]) for _ in range(2))
    assert first.libraries == second.libraries


def test_missing_cross_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "has_cross_compiler", lambda: False)
    with pytest.raises(ResourceError, match=r"compiling for wasm32 .* needs the Python package ziglang"):
        compile_graph(make_graph([4, 2]), wide_box(4), levels=["wasm32"])


@pytest.mark.parametrize(
    ("cpuinfo", "levels"),
    [
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32\n", ("arm64",)),
        ("processor\t: 0\nFeatures\t: swp half thumb\n", ()),
        ("flags\t\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3\n", ("x86-64-v2",)),
    ],
)
def test_levels_of_a_machine_are_read_from_its_features(cpuinfo: str, levels: tuple[str, ...]) -> None:
    assert supported(cpuinfo) == levels
