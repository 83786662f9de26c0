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
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import numpy as np

from ..codegen.abi import Reason
from ..equivalence.metrics import TINY
from .modules import LoadedModule
from .neural import NeuralPath, Rows

if TYPE_CHECKING:
    from .breaker import SegmentWatch

ValueT = TypeVar("ValueT")

CAPACITY = 256
"""Comparisons waiting at most: about a tenth of a second of work for a small network."""
REFUSED_AGAIN: Final = "the module refused an input that it had answered before"
NOT_FINITE: Final = "the module's output is not finite where the network's is"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One drawn request at one segment: its input, and what the path that served it answered."""

    watch: SegmentWatch
    module: LoadedModule
    neural: NeuralPath
    x: Rows
    answer: Rows
    compiled: bool
    """Whether `answer` is the module's."""
    group: str = ""
    """The request's group label, where it has one."""


class Finding(NamedTuple):
    """What one comparison found."""

    delta: float | None = None
    """Mean over rows of the relative error; None where there is nothing to compare."""
    compiled_seconds: float = 0.0
    neural_seconds: float = 0.0
    refused: bool = False
    fault: str = ""
    far: float | None = None
    """Share of the rows that are far from the calibration sample; None where nothing is known of it."""
    proven: bool = False
    """All rows lie in a region for which the module is proven."""


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
    far: float | None = None
    proven: bool = False
    group: str = ""


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


def examine(
    *,
    neural: Callable[[Rows], Rows],
    run: Callable[[Rows, Rows], int],
    outputs: int,
    x: Rows,
    answer: Rows,
    compiled: bool,
    neural_first: bool,
    far: Callable[[Rows], float] | None = None,
    proves: Callable[[Rows], bool] = lambda x: False,
) -> Finding:
    """Run both paths on rows `x` [rows, features], so that their times are of the same place, and compare what is not
    the same path as `answer` [rows, outputs] with it. Processor time of this thread: waiting is not measured. `far` and
    `proves` tell of rows what Finding does."""
    output = np.empty((x.shape[0], outputs), dtype=np.float32)
    if neural_first:
        original, neural_seconds = _timed(lambda: neural(x))
        reason, compiled_seconds = _timed(lambda: run(x, output))
    else:
        reason, compiled_seconds = _timed(lambda: run(x, output))
        original, neural_seconds = _timed(lambda: neural(x))
    if reason != Reason.OK:
        return Finding(fault=f"{REFUSED_AGAIN} (reason {reason})") if compiled else judge_refusal(answer, reason)
    y, z = (original.astype(np.float32, copy=False), answer) if compiled else (answer, output)
    delta, fault = judge_outputs(y, z)
    distant = far(x) if far is not None else None
    return Finding(delta, compiled_seconds, neural_seconds, fault=fault, far=distant, proven=proves(x))


def _timed(call: Callable[[], ValueT]) -> tuple[ValueT, float]:
    """Its value and its processor time in seconds."""
    start = thread_time()
    value = call()
    return value, thread_time() - start


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
                found = examine(
                    neural=job.neural,
                    run=job.module.run,
                    outputs=job.module.outputs,
                    x=job.x,
                    answer=job.answer,
                    compiled=job.compiled,
                    neural_first=bool(self._finished % 2),
                    far=job.neural.reference.far if job.neural.reference is not None else None,
                    proves=job.module.proves,
                )
            except Exception as error:  # whatever a module or a session raises is a finding, not our crash
                found = Finding(fault=f"comparison failed: {error}")
            first = not self.results
            self.results.append(Compared(job.watch, not job.compiled, *found, group=job.group))
            self._finished += 1
            if first:
                self._arrived()
