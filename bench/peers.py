"""What the benchmarks of networks share: our code against opponents at their best, and the table."""

from __future__ import annotations

import contextlib
import json
import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
from ecompile_crds.errors import ModelError
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.codegen.steps import fold
from ecompile_workers.distill.guard import box
from ecompile_workers.hybrid.opponents import Call, Row, interleaved, onnx_runtime, openvino, rows_of
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.to_onnx import export
from numpy.typing import NDArray

Rows = NDArray[np.float32]


def compare(name: str, graph: Graph, batch: int, *, model: bytes | None = None) -> list[Row]:
    """Ours against every peer, on the same rows. `model`: the ONNX file that peers get, by default the graph with batch
    norms folded, so that they are not handicapped by them."""
    rows = np.random.default_rng(0).normal(size=(batch, graph.input.size)).astype(np.float32)
    level = cpu_levels()[0]
    guard = box(np.stack([rows.min(axis=0) - 1, rows.max(axis=0) + 1]))
    compiled = compile_graph(graph, guard, levels=[level])
    module = CompiledFunction(compiled.libraries[level], macs=compiled.macs)
    y = np.empty((batch, module.outputs), dtype=np.float32)
    assert module.run(rows, y) == 0
    expected = interpreter.run(graph, rows.reshape(batch, *graph.input.shape)).reshape(batch, -1)
    error = float(np.abs(y - expected).max() / max(1.0, np.abs(expected).max()))
    plain = model or export(fold(graph)).SerializeToString()
    calls: dict[str, Call] = {"ours": lambda: module.run(rows, y)}
    calls["onnxruntime io_binding"] = onnx_runtime(plain, rows)
    with contextlib.suppress(ModelError):  # not installed, or it cannot run this network: then the others are shown
        calls["openvino"] = openvino(plain, rows)
    return rows_of(name, batch, interleaved(calls), error)


def show(rows: list[Row], *, as_json: bool) -> None:
    """A table, or a list of objects."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"{machine()}, {cpu_levels()[0]}, onnxruntime {onnxruntime.__version__}, one thread\n")
    print("| network | batch | ours, us (p90-p10) | peer | peer, us (p90-p10) | ratio | max error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.name} | {row.batch} | {row.ours} ({row.ours_spread}) | {row.peer} | "
            f"{row.peer_value} ({row.peer_spread}) | {row.ratio}x | {row.max_error:.1e} |"
        )


def machine() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
