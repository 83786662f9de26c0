"""What a pod and its comparing process tell each other, and the shared memory that they tell it through.

Layout: MARK_BYTES, of which the first eight are the number of the job whose module is running (0: none); the ring of
jobs; the ring of results.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import orjson
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode, SegmentRoute

from .comparison import Finding
from .neural import Rows
from .ring import HEAD_BYTES, Ring

MARK_BYTES: Final = 64
MIN_RING_BYTES: Final = 1 << 20
RING_ROWS: Final = 16
"""Rows of the largest segment that the ring of jobs holds at least."""
RESULT_RING_BYTES: Final = 1 << 18
MAX_FAULT_BYTES: Final = 400

_JOB: Final = struct.Struct("<?xxxIQ")
"""Compiled, number of the module, number of the job (0: a module is announced); then x, then the answer."""
_RESULT: Final = struct.Struct("<Q?????xxxddddI")


class Announced(NamedTuple):
    """The module that has this number in the jobs that follow."""

    module: int
    segment: int
    uri: str
    digest: str

    @property
    def route(self) -> SegmentRoute:
        """What a ModuleStore loads it by."""
        return SegmentRoute(segment=self.segment, mode=RouteMode.SHADOW, bundle_uri=self.uri, bundle_digest=self.digest)


class Job(NamedTuple):
    """One comparison to do."""

    number: int
    module: int
    compiled: bool
    """Whether `answer` is the module's."""
    x: Rows
    """[rows, features] float32."""
    answer: Rows
    """[rows, outputs] float32: what the pod answered."""


class Result(NamedTuple):
    """One comparison done, or, where the module or the network could not be loaded, not done."""

    number: int
    done: bool
    finding: Finding


def shared_bytes(plan: Plan) -> int:
    """Size of the shared memory for a plan."""
    return MARK_BYTES + 2 * HEAD_BYTES + _job_ring_bytes(plan) + RESULT_RING_BYTES


def _job_ring_bytes(plan: Plan) -> int:
    largest = max(4 * (segment.input.size + segment.output.size) for segment in plan.segments)
    return max(MIN_RING_BYTES, (RING_ROWS * largest + 4095) // 4096 * 4096)


class Exchange:
    """Either end. The pod sends, collects and looks at `running`; the process receives, marks and answers."""

    def __init__(self, memory: mmap.mmap, plan: Plan) -> None:
        """`memory` has `shared_bytes(plan)`, all zeros at first."""
        view = memoryview(memory)
        jobs = HEAD_BYTES + _job_ring_bytes(plan)
        self._mark = view[:8].cast("Q")
        self._jobs = Ring(view[MARK_BYTES : MARK_BYTES + jobs])
        self._results = Ring(view[MARK_BYTES + jobs : MARK_BYTES + jobs + HEAD_BYTES + RESULT_RING_BYTES])
        self._sizes = [(segment.input.size, segment.output.size) for segment in plan.segments]
        self._segments: dict[int, int] = {}

    def announce(self, module: Announced) -> bool:
        """False where the ring is full."""
        return self._jobs.write((_JOB.pack(False, module.module, 0), orjson.dumps(module._asdict())))

    def send(self, job: Job) -> bool:
        """Queue a job; of rows that take more than half of the ring, every n-th. False where the ring is full."""
        x, answer = job.x, job.answer
        if x.nbytes + answer.nbytes > self._jobs.largest // 2:
            step = -(-(x.nbytes + answer.nbytes) // (self._jobs.largest // 2))
            x, answer = np.ascontiguousarray(x[::step]), np.ascontiguousarray(answer[::step])
        head = _JOB.pack(job.compiled, job.module, job.number)
        return self._jobs.write((head, x.data.cast("B"), answer.data.cast("B")))

    def receive(self) -> Announced | Job | None:
        """What the pod sent next."""
        record = self._jobs.read()
        if record is None:
            return None
        compiled, module, number = _JOB.unpack_from(record)
        if number == 0:
            announced = Announced(**orjson.loads(record[_JOB.size :]))
            self._segments[module] = announced.segment
            return announced
        inputs, outputs = self._sizes[self._segments[module]]
        values = np.frombuffer(record, dtype=np.float32, offset=_JOB.size)
        rows = values.size // (inputs + outputs)
        x, answer = values[: rows * inputs].reshape(rows, inputs), values[rows * inputs :].reshape(rows, outputs)
        return Job(number, module, compiled, x, answer)

    def answer(self, result: Result) -> None:
        """Tell the pod. The pod lets fewer jobs wait than there is room for results; should it be wrong, the result is
        lost."""
        delta, compiled_seconds, neural_seconds, refused, fault, far, proven = result.finding
        text = fault.encode()[:MAX_FAULT_BYTES]
        flags = (result.done, refused, delta is not None, far is not None, proven)
        times = (compiled_seconds, neural_seconds)
        head = _RESULT.pack(result.number, *flags, delta or 0.0, *times, far or 0.0, len(text))
        self._results.write((head, text))

    def collect(self) -> Result | None:
        """The next result."""
        record = self._results.read()
        if record is None:
            return None
        number, done, refused, known, near, proven, delta, ours, theirs, far, length = _RESULT.unpack_from(record)
        fault = record[_RESULT.size : _RESULT.size + length].decode(errors="replace")
        finding = Finding(delta if known else None, ours, theirs, refused, fault, far if near else None, proven)
        return Result(number, done, finding)

    @contextlib.contextmanager
    def marked(self, number: int) -> Iterator[None]:
        """While a module runs: should it end the process, the pod knows in which job."""
        self._mark[0] = number
        try:
            yield
        finally:
            self._mark[0] = 0

    @property
    def running(self) -> int:
        """Number of the job whose module is running; 0: none."""
        return int(self._mark[0])

    def release(self) -> None:
        """Let go of the memory."""
        self._jobs.release()
        self._results.release()
        self._mark.release()
