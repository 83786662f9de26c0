"""Median latency of a module against ONNX Runtime with io_binding: one thread, warm, interleaved, CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..codegen.loader import CompiledFunction
from ..data.arrays import feeds

ROUNDS = 9
ROUND_SECONDS = 0.02
MIN_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds per call, medians over rounds."""

    ours: float
    neural: float

    @property
    def speedup(self) -> float:
        return self.neural / self.ours


def session(model: bytes) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound_call(neural: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> Callable[[], object]:
    """ONNX Runtime at its best: inputs and outputs bound once, so that a call copies nothing."""
    binding = neural.io_binding()
    fed = feeds(neural.get_inputs(), x)
    for name, values in fed.items():
        binding.bind_input(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
    made = {t.name: np.empty((len(x), *map(int, t.shape[1:])), dtype=np.float32) for t in neural.get_outputs()}
    for name, values in made.items():
        binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
    keep = (fed, made)

    def call(keep: object = keep) -> object:
        return neural.run_with_iobinding(binding)

    return call


def measure(module: CompiledFunction, neural: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> Latency:
    """Both on the same rows `x` [rows, inputs], in turns."""
    rows = np.ascontiguousarray(x, dtype=np.float32)
    y = np.empty((len(rows), module.outputs), dtype=np.float32)
    ours = lambda: module.run(rows, y)  # noqa: E731  # the hot call, as short as it gets
    theirs = bound_call(neural, rows)
    counts = [_count(call) for call in (ours, theirs)]
    samples: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for index, call in enumerate((ours, theirs)):
            samples[index].append(_time(call, counts[index]))
    return Latency(ours=float(np.median(samples[0])), neural=float(np.median(samples[1])))


def traffic_gain(module: CompiledFunction, other: CompiledFunction, rows: NDArray[np.float32]) -> float:
    """How many times faster `module` answers the rows [n, inputs] than `other`, one call each, in turns."""
    single = [np.ascontiguousarray(row, dtype=np.float32)[None] for row in rows]
    y = np.empty((1, module.outputs), dtype=np.float32)
    samples: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for index, each in enumerate((module, other)):
            start = time.thread_time()
            for x in single:
                each.run(x, y)
            samples[index].append(time.thread_time() - start)
    return float(np.median(samples[1]) / np.median(samples[0]))


def _time(call: Callable[[], object], count: int) -> float:
    """CPU seconds of this thread per call: what other work on the machine takes is not counted."""
    start = time.thread_time()
    for _ in range(count):
        call()
    return (time.thread_time() - start) / count


def _count(call: Callable[[], object]) -> int:
    """Calls that fill one round; warms up as it finds out."""
    count = 1
    while True:
        seconds = _time(call, count) * count
        if seconds >= ROUND_SECONDS / 4:
            return max(MIN_CALLS, int(count * ROUND_SECONDS / seconds))
        count *= 4
