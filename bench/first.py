"""Digits, ACAS Xu and ad01 against ONNX Runtime with io_binding: `python bench/first.py [--json] [--models DIR]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.fold import layers
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.distill.guard import box
from ecompile_workers.distill.measure import bound_call, session
from ecompile_workers.distill.orchestrator import cpu_levels
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.load import load_source
from ecompile_workers.ir.to_onnx import export

ROOT = Path(__file__).parent.parent
NETWORKS = {
    "digits": "mlp/digits.onnx",
    "acas": "acasxu/ACASXU_run2a_1_1_batch_2000.onnx",
    "ad01": "tiny/ad01.onnx",
}
BATCHES = (1, 64)
ROUNDS = 15
ROUND_SECONDS = 0.03


def folded_graph(graph: Graph) -> Graph:
    """The same network with batch norms folded, so that ONNX Runtime is not handicapped by them."""
    nodes: list[Node] = []
    current = Tensor(name="x", shape=(graph.input.size,))
    source = current
    for index, layer in enumerate(layers(graph)):
        output = Tensor(name=f"z{index}", shape=(layer.weight.shape[1],))
        constants = {"weight": layer.weight, "bias": layer.bias}
        nodes.append(Node(op=Op.GEMM, inputs=(current.name,), output=output, constants=constants))
        current = output
        if layer.activation is not None:
            output = Tensor(name=f"a{index}", shape=output.shape)
            nodes.append(Node(op=layer.activation, inputs=(current.name,), output=output))
            current = output
    return Graph(input=source, output=current, nodes=tuple(nodes))


def time_call(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def compare(name: str, graph: Graph, batch: int) -> dict[str, Any]:
    """One row of the table."""
    rows = np.random.default_rng(0).normal(size=(batch, graph.input.size)).astype(np.float32)
    level = cpu_levels()[0]
    compiled = compile_graph(graph, box(np.stack([rows.min(axis=0) - 1, rows.max(axis=0) + 1])), levels=[level])
    module = CompiledFunction(compiled.libraries[level], macs=compiled.macs)
    y = np.empty((batch, module.outputs), dtype=np.float32)
    assert module.run(rows, y) == 0
    expected = interpreter.run(graph, rows).reshape(batch, -1)
    error = float(np.abs(y - expected).max() / max(1.0, np.abs(expected).max()))
    plain = bound_call(session(export(folded_graph(graph)).SerializeToString()), rows, module.outputs)
    calls: list[Callable[[], object]] = [lambda: module.run(rows, y), plain]
    counts = [max(1, int(ROUND_SECONDS / time_call(call, 50))) for call in calls]
    samples: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            samples[index].append(time_call(call, counts[index]) * 1e6)
    ours, theirs = (float(np.median(s)) for s in samples)
    spread = [float(np.percentile(s, 90) - np.percentile(s, 10)) for s in samples]
    return {
        "name": name,
        "batch": batch,
        "ours": round(ours, 3),
        "ours_spread": round(spread[0], 3),
        "peer": "onnxruntime io_binding",
        "peer_value": round(theirs, 3),
        "peer_spread": round(spread[1], 3),
        "unit": "us",
        "ratio": round(theirs / ours, 2),
        "max_error": error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--models", type=Path, default=Path(os.environ.get("ECO_SHARED", ROOT.parent / "shared")) / "models"
    )
    arguments = parser.parse_args()
    if not arguments.models.is_dir():
        print(f"bench: {arguments.models} is missing; give the folder of networks with --models.", file=sys.stderr)
        return 1
    found = []
    for name, file in NETWORKS.items():
        graph = load_source(arguments.models / file).graph
        found += [compare(name, graph, batch) for batch in BATCHES]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{platform.machine()} {cpu_levels()[0]}, onnxruntime {onnxruntime.__version__}, one thread\n")
    print("| network | batch | ours, us (p90-p10) | ONNX Runtime io_binding, us (p90-p10) | ratio | max error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in found:
        print(
            f"| {row['name']} | {row['batch']} | {row['ours']} ({row['ours_spread']}) | "
            f"{row['peer_value']} ({row['peer_spread']}) | {row['ratio']}x | {row['max_error']:.1e} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
