"""A package against other ways to run its network: one process, one thread, interleaved, warm, outputs compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ecompile_crds.errors import Code, ModelError
from numpy.typing import NDArray

from ..data.arrays import feeds
from ..distill.measure import bound_call, session
from ..serving.neural import NeuralPath
from .package import Package
from .session import HybridSession

Rows = NDArray[np.float32]
Call = Callable[[], object]
ROUNDS = 15
ROUND_SECONDS = 0.03
OPPONENTS = ("onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Microseconds of processor time per call: median over rounds, and the 90th percentile less the 10th."""

    median: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table. `ratio` above 1 means that we are better."""

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
    """Largest difference of outputs, relative to the largest output where that exceeds 1."""


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
    """Processor seconds of all threads of this process per call: what else the machine does is not counted."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def onnx_runtime(model: bytes, rows: Rows) -> Call:
    """ONNX Runtime with io_binding: a call copies nothing."""
    return bound_call(session(model), rows)


def openvino(model: bytes, rows: Rows) -> Call:
    """OpenVINO with one stream, optimised for latency, its inputs bound.

    Raises ModelError where it is not installed or cannot read the model.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise ModelError(Code.MODEL_UNSUPPORTED, "OpenVINO is not installed: pip install openvino.") from error
    hints = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        core = ov.Core()
        read = core.read_model(model)
        sources = session(model).get_inputs()
        fed = feeds(sources, rows)
        read.reshape({name: values.shape for name, values in fed.items()})
        request = core.compile_model(read, "CPU", hints).create_infer_request()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(Code.MODEL_UNSUPPORTED, f"OpenVINO cannot run the model: {reason}.") from error
    for name, values in fed.items():
        request.set_tensor(name, ov.Tensor(values, shared_memory=True))
    infer: Call = request.infer
    return infer


def rows_of(name: str, batch: int, found: Mapping[str, Timing], error: float) -> list[Row]:
    """`found` has our timing as "ours"."""
    ours = found["ours"]
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
        if peer != "ours"
    ]


def bench(package: Package, rows: Rows, against: Sequence[str]) -> list[Row]:
    """The package on `rows` [batch, ...] against opponents that run its original network.

    Raises ModelError where an opponent cannot.
    """
    x = np.ascontiguousarray(rows, dtype=np.float32)
    model = package.files[package.plan.neural.path]
    ours = HybridSession(package)
    calls: dict[str, Call] = {"ours": lambda: ours.run(x)}
    for name in against:
        flat = x.reshape(len(x), -1)
        if name == "onnxruntime":
            calls["onnxruntime io_binding"] = onnx_runtime(model, flat)
        else:
            calls[name] = openvino(model, flat)
    expected = NeuralPath(model, what=package.plan.neural.path)(x.reshape(len(x), -1))
    error = float(np.abs(ours.run(x).reshape(len(x), -1) - expected).max() / max(1.0, float(np.abs(expected).max())))
    return rows_of(package.manifest.model, len(x), interleaved(calls), error)
