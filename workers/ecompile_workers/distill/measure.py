"""Median latency of a module against ONNX Runtime with io_binding: one thread, warm, interleaved, CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..codegen.loader import CompiledFunction
from ..data import arrays

ROUNDS = 9
ROUND_SECONDS = 0.02
MIN_CALLS = 3
MAX_ROWS = 1000
"""Rows of the traffic on which modules are compared."""
BATCH_ROWS = 256


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
    fed = arrays.feeds(neural.get_inputs(), x)
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


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a module takes for one row of the traffic."""

    seconds: float
    answered: float
    """Share of the rows that it answers; the others go to the neural path as well."""

    def with_refused(self, neural_seconds: float) -> float:
        """Seconds per row until there is an answer."""
        return self.seconds + (1.0 - self.answered) * neural_seconds


def measured(
    modules: Sequence[CompiledFunction], neural: bytes, rows: NDArray[np.float32]
) -> tuple[tuple[Timing, ...], float]:
    """Modules and the neural path (ONNX) on the same rows [n, inputs], one call a row, in turns: medians over rounds.

    Returns what each module takes, and seconds per row of the neural path.
    """
    y = np.empty((1, modules[0].outputs), dtype=np.float32)
    first = np.ascontiguousarray(rows[:1], dtype=np.float32)
    theirs = bound_call(session(neural), first)
    neural_count = _count(theirs)
    slowest = max(_time(lambda m=module: m.run(first, y), MIN_CALLS) for module in modules)  # type: ignore[misc]  # bound
    count = min(MAX_ROWS, len(rows), max(1, int(ROUND_SECONDS / max(slowest, 1e-9))))
    chosen = np.linspace(0, len(rows) - 1, count).astype(int)
    single = [np.ascontiguousarray(rows[index], dtype=np.float32)[None] for index in chosen]
    answered = [sum(module.run(x, y) == 0 for x in single) / count for module in modules]
    repeat = max(1, int(ROUND_SECONDS / 4 / max(slowest * count, 1e-9)))
    samples: list[list[float]] = [[] for _ in modules]
    other: list[float] = []
    for _ in range(ROUNDS):
        for index, module in enumerate(modules):
            samples[index].append(_time(lambda m=module: [m.run(x, y) for x in single], repeat) / count)  # type: ignore[misc]  # bound
        other.append(_time(theirs, neural_count))
    timings = tuple(
        Timing(seconds=float(np.median(each)), answered=share) for each, share in zip(samples, answered, strict=True)
    )
    return timings, float(np.median(other))


def infer(neural: onnxruntime.InferenceSession, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [rows, outputs] of an ONNX Runtime session, in batches."""
    sources = neural.get_inputs()
    blocks = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    return np.concatenate([arrays.gathered(neural.run(None, arrays.feeds(sources, block))) for block in blocks])


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
