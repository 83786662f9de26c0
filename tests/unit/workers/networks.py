"""Random dense networks as graphs, and a home for a Job context without a cluster."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.jobs import JobInput
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.to_onnx import export
from ecompile_workers.jobs.context import Context

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def make_graph(sizes: list[int], activation: Op = Op.RELU, *, seed: int = 0, last: Op | None = None) -> Graph:
    """A chain of matrices with an activation between them, and `last` after the last one."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    current = Tensor(name="x", shape=(sizes[0],))
    source = current
    for index, (m, n) in enumerate(itertools.pairwise(sizes)):
        output = Tensor(name=f"z{index}", shape=(n,))
        weight = (rng.normal(size=(m, n)) / np.sqrt(m)).astype(np.float32)
        bias = rng.normal(size=n).astype(np.float32)
        nodes.append(
            Node(op=Op.GEMM, inputs=(current.name,), output=output, constants={"weight": weight, "bias": bias})
        )
        current = output
        op = last if index == len(sizes) - 2 else activation
        if op is not None:
            output = Tensor(name=f"a{index}", shape=(n,))
            nodes.append(Node(op=op, inputs=(current.name,), output=output))
            current = output
    return Graph(input=source, output=current, nodes=tuple(nodes))


def wide_box(size: int, reach: float = 1e6) -> GuardBox:
    return GuardBox(lower=np.full(size, -reach, np.float32), upper=np.full(size, reach, np.float32))


def write_digits_like(root: Path, *, rows: int = 400) -> None:
    """A model, calibration and held-out rows below `root`/net."""
    folder = root / "net"
    folder.mkdir(parents=True, exist_ok=True)
    graph = make_graph([16, 32, 4])
    (folder / "model.onnx").write_bytes(export(graph).SerializeToString())
    rng = np.random.default_rng(1)
    for name in ("calibration", "held_out"):
        np.savez(folder / f"{name}.npz", inputs=rng.normal(size=(rows, 16)).astype(np.float32))


def make_context(root: Path, **changes: Any) -> Context:
    """A Job context on local files, with the change that matters."""
    told: dict[str, Any] = {
        "kind": "profile",
        "namespace": "default",
        "model": "net",
        "job": "net-profile",
        "life": "life1",
        "sourceUri": "file:///artifacts/net/model.onnx",
        "calibrationUri": "file:///artifacts/net/calibration.npz",
        "heldOutUri": "file:///artifacts/net/held_out.npz",
        "artifactsUri": "file:///artifacts",
        **changes,
    }
    return Context(
        job=JobInput.model_validate(told),
        progress=lambda step, fraction: None,
        signing_key=KEY,
        trusted_keys=(KEY.public_key(),),
        local_root=root,
    )
