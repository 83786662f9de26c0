"""A 64-128-64-10 network trained with torch on the digits that scikit-learn ships."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from ..data import store
from ..ir.graph import Graph, Node, Op, Tensor
from ..ir.to_onnx import export

SIZES = (64, 128, 64, 10)
TRAIN_ROWS = 1300
EPOCHS = 30


def train(seed: int) -> tuple[Graph, float]:
    """The trained network and its accuracy on the rows not trained on."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x, y = data(seed)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    layers: list[torch.nn.Module] = []
    for index in range(len(SIZES) - 1):
        layers.append(torch.nn.Linear(SIZES[index], SIZES[index + 1]))
        if index < len(SIZES) - 2:
            layers.append(torch.nn.ReLU())
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN_ROWS).split(64):  # type: ignore[no-untyped-call]  # untyped upstream
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]  # untyped upstream
            optimizer.step()
    with torch.no_grad():
        accuracy = float((model(inputs[TRAIN_ROWS:]).argmax(1) == labels[TRAIN_ROWS:]).float().mean())
    return _graph(layers), accuracy


def data(
    seed: int,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """All rows, shuffled by seed, pixels in 0..1."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    return (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int64)


def _graph(layers: list[torch.nn.Module]) -> Graph:
    source = Tensor(name="input", shape=(SIZES[0],))
    nodes: list[Node] = []
    current = source
    for index, layer in enumerate(layers):
        if isinstance(layer, torch.nn.Linear):
            output = Tensor(name=f"layer{index}", shape=(layer.out_features,))
            weight = np.ascontiguousarray(layer.weight.detach().numpy().T)
            constants = {"weight": weight, "bias": layer.bias.detach().numpy().copy()}
            nodes.append(Node(op=Op.GEMM, inputs=(current.name,), output=output, constants=constants))
        else:
            output = Tensor(name=f"layer{index}", shape=current.shape)
            nodes.append(Node(op=Op.RELU, inputs=(current.name,), output=output))
        current = output
    return Graph(input=source, output=current, nodes=tuple(nodes))


def write_example(root: Path, *, seed: int = 0, name: str = "digits") -> float:
    """Train and write model, calibration and held-out rows below `root`; returns the accuracy."""
    graph, accuracy = train(seed)
    x, y = data(seed)
    base = f"file://{root.resolve()}/{name}"
    for file, rows in (("calibration", slice(0, TRAIN_ROWS)), ("held_out", slice(TRAIN_ROWS, None))):
        buffer = io.BytesIO()
        np.savez(buffer, inputs=x[rows], labels=y[rows])
        store.write(f"{base}/{file}.npz", buffer.getvalue())
    store.write(f"{base}/model.onnx", export(graph, name=name).SerializeToString())
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="artifact directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="digits")
    arguments = parser.parse_args()
    target = arguments.to / arguments.name / "model.onnx"
    if target.exists():
        print(f"{target} is there already")
        return
    accuracy = write_example(arguments.to, seed=arguments.seed, name=arguments.name)
    print(f"trained {target}: {accuracy:.1%} of the rows not trained on are right")


if __name__ == "__main__":
    main()
