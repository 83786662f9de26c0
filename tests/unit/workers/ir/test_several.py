"""Networks with several inputs and outputs: one row of all of them inside, by name outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.data.arrays import feeds, gathered
from ecompile_workers.ir import onnx_importer, serialize, to_onnx
from ecompile_workers.ir.graph import DType, Graph
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.load import Source, load_source, neural_segment
from ecompile_workers.ir.segments import split
from ecompile_workers.ir.torch_importer import import_module
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from .checks import assert_close
from .onnx_cases import Model, normal

WORDS, LENGTH = 11, 5


class Reader(nn.Module):
    """Words, a mask of truth values and numbers beside them; two outputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 4)
        self.mix = nn.Linear(4 + 3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, words: Tensor, mask: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        there = mask.to(torch.float32)
        found = self.table(words) * there.unsqueeze(-1)
        mean = found.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        hidden = torch.relu(self.mix(torch.cat([mean, numbers], dim=1)))
        return self.head(hidden), found


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader().eval()


def examples(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(1)
    words = torch.from_numpy(rng.integers(0, WORDS, (rows, LENGTH)))
    mask = torch.from_numpy(rng.random((rows, LENGTH)) < 0.7)
    return words, mask, torch.from_numpy(rng.normal(size=(rows, 3)).astype(np.float32))


def packed(parts: tuple[Tensor, ...]) -> NDArray[np.float32]:
    return np.concatenate([part.detach().numpy().reshape(len(part), -1) for part in parts], axis=1).astype(np.float32)


def session(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def neural(model: onnx.ModelProto, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    made = session(model)
    return gathered(made.run(None, feeds(made.get_inputs(), rows)))


def check(graph: Graph, reader: Reader) -> None:
    inputs = examples(6)
    rows, expected = packed(inputs), packed(reader(*inputs))
    assert [(t.shape, t.dtype) for t in graph.inputs] == [
        ((LENGTH,), DType.INT64),
        ((LENGTH,), DType.BOOL),
        ((3,), DType.FLOAT32),
    ]
    assert [t.shape for t in graph.outputs] == [(2,), (LENGTH, 4)]
    assert graph.integers == (slice(0, LENGTH), slice(LENGTH, 2 * LENGTH))
    assert_close(run(graph, rows), expected)
    text, weights = serialize.dump(graph)
    assert serialize.dump(serialize.load(text, weights)) == (text, weights)
    exported = to_onnx.export(graph)
    assert [each.name for each in exported.graph.input] == [each.name for each in graph.inputs]
    assert_close(neural(exported, rows), expected)


def test_live_module_equals_torch(reader: Reader) -> None:
    check(import_module(reader, *examples(2), name="reader"), reader)


def test_archive_equals_torch(reader: Reader, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = examples(2)
    exported = torch.export.export(reader, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(exported, tmp_path / "reader.pt2")
    check(load_source(tmp_path / "reader.pt2").graph, reader)


def test_onnx_file_equals_torch(reader: Reader, tmp_path: Path) -> None:
    names = ["words", "mask", "numbers"]
    torch.onnx.export(
        reader,
        examples(2),
        str(tmp_path / "reader.onnx"),
        dynamo=False,
        input_names=names,
        output_names=["class", "found"],
        dynamic_axes={name: {0: "batch"} for name in [*names, "class", "found"]},
    )
    source = load_source(tmp_path / "reader.onnx")
    check(source.graph, reader)
    assert [each.name for each in source.graph.outputs] == ["class", "found"]
    inputs = examples(6)
    assert_close(neural(source.neural, packed(inputs)), packed(reader(*inputs)))


def test_unknown_operators_keep_the_inputs_and_outputs_of_their_part() -> None:
    model = Model(shape=[4], opset=17).constant("w", normal(4, 4)).constant("v", normal(4, 3))
    model.node("Add", "x", "z", output="s").node("Hardmax", "s", output="h").node("MatMul", "h", "w", output="a")
    model.node("Hardmax", "a", output="b").node("MatMul", "b", "v")
    built = model.build()
    built.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4]))
    built.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 4]))
    graph = onnx_importer.import_model(built, name="net")
    source = Source(graph=graph, neural=onnx_importer.with_dynamic_batch(built), format="onnx")
    parts = split(graph, obstacle)
    assert [part.compilable for part in parts] == [False, True, False, True]
    rows = normal(7, 8, seed=2)
    current = rows
    for part in parts:
        current = neural(neural_segment(source, part, len(parts)), current)
    assert_close(current, neural(source.neural, rows))
