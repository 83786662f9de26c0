"""What all benchmarks of networks share: opponents at their best, interleaved timing, rows of a table.

Every opponent runs on one thread with its input and output bound once, so that a call copies nothing.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.loader import CompiledFunction
from ecompile_workers.codegen.steps import fold
from ecompile_workers.distill.guard import box
from ecompile_workers.distill.measure import bound_call, session
from ecompile_workers.distill.orchestrator import cpu_levels
from ecompile_workers.ir import interpreter
from ecompile_workers.ir.graph import Graph
from ecompile_workers.ir.to_onnx import export
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Call = Callable[[], object]
ROUNDS = 15
ROUND_SECONDS = 0.03


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. `ratio` above 1 means that we are better."""

    name: str
    batch: int
    ours: float
    ours_spread: float
    peer: str
    peer_value: float
    peer_spread: float
    unit: str
    ratio: float
    max_error: float
    """Against the float64 interpreter, relative to the largest output where that exceeds 1."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Microseconds per call: median over rounds, and the distance from the 10th to the 90th percentile."""

    median: float
    spread: float


def interleaved(calls: Mapping[str, Call]) -> dict[str, Timing]:
    """All calls in turns, warm."""
    counts = {name: max(1, int(ROUND_SECONDS / _seconds(call, 5))) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            samples[name].append(_seconds(call, counts[name]) * 1e6)
    return {
        name: Timing(median=float(np.median(s)), spread=float(np.percentile(s, 90) - np.percentile(s, 10)))
        for name, s in samples.items()
    }


def _seconds(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def onnx_runtime(model: bytes, rows: Rows, outputs: int) -> Call:
    """ONNX Runtime with io_binding."""
    return bound_call(session(model), rows, outputs)


def openvino(model: bytes, rows: Rows) -> Call | None:
    """OpenVINO with one stream, optimised for latency; None where it is not installed or cannot read the model."""
    try:
        import openvino as ov
    except ImportError:
        return None
    core = ov.Core()
    hints = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        read = core.read_model(model)
        shape = [len(rows), *(int(d.get_length()) for d in list(read.inputs[0].partial_shape)[1:])]
        read.reshape(shape)
        request = core.compile_model(read, "CPU", hints).create_infer_request()
    except RuntimeError:
        return None
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(rows.reshape(shape)), shared_memory=True))
    infer: Call = request.infer
    return infer


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
    calls["onnxruntime io_binding"] = onnx_runtime(plain, rows, module.outputs)
    if (other := openvino(plain, rows)) is not None:
        calls["openvino"] = other
    found = interleaved(calls)
    ours = found.pop("ours")
    return [
        Row(
            name=name,
            batch=batch,
            ours=round(ours.median, 3),
            ours_spread=round(ours.spread, 3),
            peer=peer,
            peer_value=round(timing.median, 3),
            peer_spread=round(timing.spread, 3),
            unit="us",
            ratio=round(timing.median / ours.median, 2),
            max_error=error,
        )
        for peer, timing in found.items()
    ]


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
