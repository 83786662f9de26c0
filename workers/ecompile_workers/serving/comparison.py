"""Comparing the two paths of a segment, off the request path. Nothing here can slow or fail a request.

What to compare, what was found, and the comparison itself; and a comparer with a thread of this process, for programs
that serve nobody else. A pod compares in a process of its own (comparer.py): a thread shares the interpreter with
requests, and lengthened their p99 by half. Results wait until the thread that answers requests takes them, so that one
thread writes all counters.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import thread_time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from ..codegen.abi import Reason
from ..equivalence.metrics import TINY
from .modules import LoadedModule
from .neural import NeuralPath, Rows

if TYPE_CHECKING:
    from .breaker import SegmentWatch

CAPACITY = 256
"""Comparisons waiting at most: about a tenth of a second of work for a small network."""
NOT_FINITE: Final = "the module's output is not finite where the network's is"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One drawn request at one segment: its input, and what the path that served it answered, and in what CPU time."""

    watch: SegmentWatch
    module: LoadedModule
    neural: NeuralPath
    x: Rows
    answer: Rows
    compiled: bool
    """Whether `answer` is the module's."""
    seconds: float


class Finding(NamedTuple):
    """What one comparison found."""

    delta: float | None = None
    """Mean over rows of the relative error; None where there is nothing to compare."""
    compiled_seconds: float = 0.0
    neural_seconds: float = 0.0
    refused: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """A finding, and whose it is."""

    watch: SegmentWatch
    shadow: bool
    """The module ran off the request path."""
    delta: float | None = None
    """Mean over rows of the relative error; None where there is nothing to compare."""
    compiled_seconds: float = 0.0
    neural_seconds: float = 0.0
    refused: bool = False
    fault: str = ""


class Comparer(Protocol):
    """Where comparisons are done. For the thread that answers requests, and never waiting."""

    def prepare(self) -> None:
        """Comparisons will come."""
        ...

    def submit(self, job: Comparison) -> bool:
        """Queue a comparison; False where the queue is full."""
        ...

    def take(self) -> Compared | None:
        """The oldest result that nobody took yet."""
        ...


def relative_error(neural: Rows, compiled: Rows) -> float | None:
    """Mean over rows of ||y - y'|| / (||y|| + 1e-6), over rows where the network's own output is finite."""
    y, z = neural.astype(np.float64), compiled.astype(np.float64)
    norms = np.linalg.norm(y, axis=1)
    finite = np.isfinite(norms)
    if not finite.any():
        return None
    return float((np.linalg.norm(y[finite] - z[finite], axis=1) / (norms[finite] + TINY)).mean())


def judge_outputs(neural: Rows, compiled: Rows) -> tuple[float | None, str]:
    """The relative error of a module's output [rows, outputs], and the sentence of a fault."""
    finite = np.isfinite(neural).all(axis=1)
    if not np.isfinite(compiled[finite]).all():
        return None, NOT_FINITE
    return relative_error(neural, compiled), ""


def judge_refusal(neural: Rows, reason: int) -> Finding:
    """A module that gave no output: it refused, or its numbers are not finite."""
    if reason == Reason.NON_FINITE_OUTPUT and np.isfinite(neural).all():
        return Finding(fault=NOT_FINITE)
    return Finding(refused=True)


def compare(job: Comparison) -> Finding:
    """Run the other path and compare. CPU time of this thread, so that waiting for the interpreter is not measured."""
    start = thread_time()
    if job.compiled:
        neural, compiled = job.neural(job.x), job.answer
        neural_seconds, compiled_seconds = thread_time() - start, job.seconds
    else:
        neural, compiled = job.answer, np.empty((job.x.shape[0], job.module.outputs), dtype=np.float32)
        reason = job.module.run(job.x, compiled)
        neural_seconds, compiled_seconds = job.seconds, thread_time() - start
        if reason != Reason.OK:
            return judge_refusal(neural, reason)
    delta, fault = judge_outputs(neural, compiled)
    return Finding(delta, compiled_seconds, neural_seconds, fault=fault)


class ThreadComparer:
    """The queue and its thread."""

    def __init__(self, *, capacity: int = CAPACITY, arrived: Callable[[], None] = lambda: None) -> None:
        self._capacity = capacity
        self._arrived = arrived
        self._jobs: SimpleQueue[Comparison | None] = SimpleQueue()
        self.results: deque[Compared] = deque()
        self._submitted = 0
        self._finished = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="comparison", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout=10)
            self._thread = None

    def prepare(self) -> None:
        """The thread is there from the start."""

    def take(self) -> Compared | None:
        """The oldest result that nobody took yet."""
        return self.results.popleft() if self.results else None

    def submit(self, job: Comparison) -> bool:
        """Queue a comparison; False where the queue is full."""
        if self._jobs.qsize() >= self._capacity:
            return False
        self._submitted += 1
        self._jobs.put(job)
        return True

    @property
    def idle(self) -> bool:
        """Whether everything submitted has its result."""
        return self._finished == self._submitted

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                found = compare(job)
            except Exception as error:  # whatever a module or a session raises is a finding, not our crash
                found = Finding(fault=f"comparison failed: {error}")
            first = not self.results
            self.results.append(Compared(job.watch, not job.compiled, *found))
            self._finished += 1
            if first:
                self._arrived()
