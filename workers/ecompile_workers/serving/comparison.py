"""Comparing the two paths of a segment, off the request path: a bounded queue and one thread.

Nothing here can slow or fail a request: a full queue drops (and counts), an exception becomes a result. Results wait
in a queue of their own until the thread that answers requests takes them, so that one thread writes all counters.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np

from ..codegen.abi import Reason
from ..equivalence.metrics import TINY
from ..trace.reference import Reference
from .modules import LoadedModule
from .neural import NeuralPath, Rows

if TYPE_CHECKING:
    from .breaker import SegmentWatch

CAPACITY = 256
"""Comparisons waiting at most: about a tenth of a second of work for a small network."""


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
    group: str = ""
    """The request's group label, where it has one."""
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found."""

    watch: SegmentWatch
    shadow: bool
    """The module ran off the request path."""
    delta: float | None = None
    """Mean over rows of the relative error; None where there is nothing to compare."""
    compiled_seconds: float = 0.0
    neural_seconds: float = 0.0
    refused: bool = False
    fault: str = ""
    group: str = ""
    far: float | None = None
    """Share of the rows that are far from the calibration sample; None where nothing is known of it."""
    proven: bool = False
    """All rows lie in a region for which the module is proven."""


def relative_error(neural: Rows, compiled: Rows) -> float | None:
    """Mean over rows of ||y - y'|| / (||y|| + 1e-6), over rows where the network's own output is finite."""
    y, z = neural.astype(np.float64), compiled.astype(np.float64)
    norms = np.linalg.norm(y, axis=1)
    finite = np.isfinite(norms)
    if not finite.any():
        return None
    return float((np.linalg.norm(y[finite] - z[finite], axis=1) / (norms[finite] + TINY)).mean())


def compare(job: Comparison) -> Compared:
    """Run the other path and compare. CPU time of this thread, so that waiting for the interpreter is not measured."""
    shadow = not job.compiled
    start = thread_time()
    if job.compiled:
        neural, compiled = job.neural(job.x), job.answer
        neural_seconds, compiled_seconds = thread_time() - start, job.seconds
    else:
        neural, compiled = job.answer, np.empty((job.x.shape[0], job.module.outputs), dtype=np.float32)
        reason = job.module.run(job.x, compiled)
        neural_seconds, compiled_seconds = job.seconds, thread_time() - start
        if reason == Reason.NON_FINITE_OUTPUT and np.isfinite(neural).all():
            return Compared(job.watch, shadow, fault="the module's output is not finite where the network's is")
        if reason != Reason.OK:
            return Compared(job.watch, shadow, refused=True)
    finite = np.isfinite(neural).all(axis=1)
    if not np.isfinite(compiled[finite]).all():
        return Compared(job.watch, shadow, fault="the module's output is not finite where the network's is")
    delta = relative_error(neural, compiled)
    far = job.reference.far(job.x) if job.reference is not None else None
    return Compared(
        job.watch,
        shadow,
        delta,
        compiled_seconds,
        neural_seconds,
        group=job.group,
        far=far,
        proven=job.module.proves(job.x),
    )


class Comparer:
    """The queue and its thread. `submit` and `results` are for the thread that answers requests."""

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
                result = compare(job)
            except Exception as error:  # whatever a module or a session raises is a finding, not our crash
                result = Compared(job.watch, not job.compiled, fault=f"comparison failed: {error}")
            first = not self.results
            self.results.append(result)
            self._finished += 1
            if first:
                self._arrived()
