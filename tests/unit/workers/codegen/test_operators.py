"""Generated code of every operator against the float64 interpreter, small and odd shapes and large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ecompile_workers.codegen.abi import Reason
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import DType, Graph
from ecompile_workers.ir.torch_importer import import_module
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ..ir.torch_cases import CASES, Function, few
from ..networks import wide_box

LEVELS = cpu_levels()


def assert_compiled_equals_interpreter(graph: Graph, *, rows: int, level: str = LEVELS[0], words: int = 0) -> None:
    compiled = compile_graph(graph, wide_box(graph.input.size), levels=[level], optimisation="O2")
    module = CompiledFunction(compiled.libraries[level], macs=compiled.macs)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *graph.input.shape)).astype(np.float32)
    if words:
        x = rng.integers(0, words, x.shape).astype(np.float32)
    expected = interpreter.run(graph, x).reshape(rows, -1)
    reason, y = module(x.reshape(rows, -1))
    if not np.isfinite(expected).all():
        assert reason is Reason.NON_FINITE_OUTPUT
        return
    assert reason is Reason.OK
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(y, expected, atol=2e-5 * scale, rtol=2e-5)


@pytest.mark.parametrize("name", sorted(CASES))
@few(2)
@given(data=st.data())
def test_small_shapes(name: str, data: Any) -> None:
    torch.manual_seed(0)
    case = CASES[name](data.draw)
    example = torch.zeros(2, *case.shape, dtype=torch.int64) if case.words else torch.randn(2, *case.shape)
    graph = import_module(case.module.eval(), example, name=name)
    if graph.output.dtype is not DType.FLOAT32:
        pytest.skip("segments exchange float32")
    assert_compiled_equals_interpreter(graph, rows=3, words=case.words)


def image(channels: int, size: int) -> tuple[int, ...]:
    return (channels, size, size)


class Block(nn.Module):
    """A transformer block: attention and a perceptron, each with a residual sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.first(x)).split(width, dim=2)
        parts = [t.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v)]
        y = F.scaled_dot_product_attention(*parts)
        x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


LARGE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv 3x3, 16 channels": (lambda: nn.Conv2d(16, 16, 3, padding=1), image(16, 13)),
    "conv 3x3, even image": (lambda: nn.Conv2d(32, 48, 3, padding=1), image(32, 12)),
    "conv 3x3, no padding": (lambda: nn.Sequential(nn.Conv2d(16, 16, 3), nn.SiLU()), (16, 10, 14)),
    "conv 3x3, odd channels": (lambda: nn.Conv2d(5, 33, 3, padding=1, stride=2), image(5, 11)),
    "conv 10x4": (lambda: nn.Conv2d(1, 64, (10, 4), stride=2, padding=(4, 1)), (1, 49, 10)),
    "conv dilated": (lambda: nn.Conv2d(8, 24, 3, padding=2, dilation=2), image(8, 9)),
    "conv grouped": (lambda: nn.Conv2d(8, 64, 3, groups=4, padding=1), image(8, 7)),
    "conv grouped, odd": (lambda: nn.Conv2d(66, 99, 3, groups=33, padding=1), image(66, 5)),
    "conv depthwise with two outputs each": (lambda: nn.Conv2d(9, 18, 3, groups=9, padding=1), image(9, 6)),
    "conv grouped, residual": (
        lambda: Function(lambda x, a: F.relu(a(x) + x), a=nn.Conv2d(12, 12, 3, groups=4, padding=1)),
        image(12, 7),
    ),
    "pool dilated": (lambda: nn.MaxPool2d(3, stride=2, padding=1, dilation=2, ceil_mode=True), image(13, 17)),
    "pool average, padded": (lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), image(13, 16)),
    "lstm": (lambda: Function(lambda x, a: a(x)[0], a=nn.LSTM(20, 33, 2, batch_first=True)), (17, 20)),
    "gru": (lambda: Function(lambda x, a: a(x)[0], a=nn.GRU(20, 64, bidirectional=True, batch_first=True)), (9, 20)),
    "power": (lambda: Function(lambda x: (x.abs() + 0.1) ** (x * 2)), (37,)),
    "pad reflect": (lambda: nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(5, 8, 3)), image(5, 9)),
    "conv 1d": (lambda: nn.Conv1d(20, 40, 5, padding=2), (20, 31)),
    "conv pointwise": (lambda: nn.Conv2d(64, 48, 1), (64, 25, 5)),
    "depthwise": (lambda: nn.Conv2d(64, 64, 3, groups=64, padding=1), (64, 25, 5)),
    "depthwise odd": (lambda: nn.Conv2d(13, 13, 3, groups=13, padding=1, stride=2), image(13, 9)),
    "residual": (
        lambda: Function(
            lambda x, a, b: F.relu(b(F.relu(a(x))) + x),
            a=nn.Conv2d(16, 16, 3, padding=1),
            b=nn.Conv2d(16, 16, 3, padding=1),
        ),
        image(16, 8),
    ),
    "conv, norm, pool, head": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.Hardswish(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 40, 3),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(40, 10),
        ),
        image(3, 16),
    ),
    "conv, flatten, dense": (
        lambda: nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 36, 7)),
        image(3, 8),
    ),
    "transformer block": (lambda: Block(64, 4), (32, 64)),
    "transformer block, odd": (lambda: Block(20, 5), (7, 20)),
    "dense on tokens": (lambda: nn.Sequential(nn.Linear(48, 100), nn.GELU(), nn.Linear(100, 48)), (17, 48)),
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(70, 130), nn.LayerNorm(130), nn.SiLU(), nn.Linear(130, 3), nn.Softmax(-1)),
        (70,),
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", LARGE)
def test_large_shapes(name: str, level: str) -> None:
    torch.manual_seed(0)
    make, shape = LARGE[name]
    graph = import_module(make().eval(), torch.randn(2, *shape), name=name)
    assert obstacle(graph) is None
    assert_compiled_equals_interpreter(graph, rows=2, level=level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["perceptron", "conv, flatten, dense", "transformer block, odd"])
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(name: str, level: str) -> None:
    torch.manual_seed(0)
    make, shape = LARGE[name]
    graph = import_module(make().eval(), torch.randn(2, *shape), name=name)
    compiled = compile_graph(graph, wide_box(graph.input.size), levels=[level])
    module = CompiledFunction(compiled.libraries[level], macs=compiled.macs)
    x = np.random.default_rng(0).normal(size=(23, graph.input.size)).astype(np.float32)
    together = module(x)[1]
    for start, stop in ((0, 1), (5, 6), (22, 23), (3, 11), (9, 22)):
        np.testing.assert_array_equal(module(x[start:stop])[1], together[start:stop])


def test_an_unknown_word_is_refused() -> None:
    graph = import_module(nn.Embedding(7, 5).eval(), torch.zeros(2, 3, dtype=torch.int64), name="words")
    compiled = compile_graph(graph, wide_box(3), levels=[LEVELS[0]])
    module = CompiledFunction(compiled.libraries[LEVELS[0]], macs=0)
    assert module(np.array([[0, 6, 3]], np.float32))[0] is Reason.OK
    for word in (-1.0, 7.0, 1e6):
        assert module(np.array([[0, word, 3]], np.float32))[0] is Reason.NON_FINITE_OUTPUT


def test_computing_with_integers_stays_neural() -> None:
    """Beyond 2**24 float32 would round."""

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.table(x + 1)
            return found

    graph = import_module(Next().eval(), torch.zeros(2, 3, dtype=torch.int64), name="words")
    assert obstacle(graph) == "aten.add.Tensor"
