"""The one way from a parsed request to its answer, for REST and gRPC alike: admission, where it runs, counting.

Small work runs in the event loop, where it takes less time than a hop to a thread; large work goes to the batcher, so
that liveness is never starved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Generic, TypeVar, cast

import numpy as np
from ecompile_crds.errors import Code, EcompileError, InternalError, ResourceError
from ecompile_crds.tracing import Tracer

from .admission import Admission, Limits
from .batching import Batcher
from .bridge import Bridge, Outcome, Served, describe
from .explanation import explain
from .feedback import Feedback
from .neural import Rows
from .protocol import Answer, InferRequest

logger = logging.getLogger(__name__)

RenderedT = TypeVar("RenderedT")

INLINE_SECONDS: Final = 1e-3
"""Estimated work above which a request goes to a thread; a hop there costs about 0.1 ms."""
INLINE_BODY_BYTES: Final = 256 << 10
"""Requests above this are parsed in a thread: orjson and numpy take about 1 ms for it."""
LOW_PRIORITY_SHARE: Final = 0.25
"""Of the queue that requests of low priority may fill; the rest is kept for the others."""
COMPARISONS_PER_REQUEST: Final = 1
"""Results of comparisons that a request takes at most, so that many of them do not make one request slow."""
NOT_READY_RETRY_SECONDS: Final = 1.0


_REFUSED: Final = frozenset({Served.OUTSIDE_GUARD, Served.NOT_ADMITTED, Served.FAULT})


@dataclass(frozen=True, slots=True)
class _Job(Generic[RenderedT]):
    request: InferRequest
    render: Callable[[InferRequest, Answer], RenderedT]


@dataclass(frozen=True, slots=True)
class _Done(Generic[RenderedT]):
    """`rendered` is what the job asked for; `settle` the passes it is the one to count, with their requests."""

    rendered: RenderedT
    path: str
    settle: tuple[tuple[Outcome, int], ...]


class Service:
    """Answers requests once `start` was called; all methods belong to the event loop's thread."""

    def __init__(
        self,
        *,
        model: str,
        version: str,
        threads: int = 2,
        limits: Limits | None = None,
        feedback: Feedback | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.admission = Admission(limits or Limits())
        self.draining = False
        self.tracer = tracer
        """Where requests are traced; None where they are not."""
        self.feedback = feedback
        """Where answers are remembered for labels that come later; None where nobody asks for it."""
        self._bridge: Bridge | None = None
        self._batcher: Batcher[_Job[object], _Done[object]] = Batcher(self._run, threads=threads, count=self._settle)

    def start(self, bridge: Bridge) -> None:
        """Start answering."""
        self._bridge = bridge

    def drain(self) -> None:
        """Not ready any more; requests are still answered."""
        self.draining = True

    def close(self) -> None:
        """End the threads."""
        self._batcher.close()

    @property
    def ready(self) -> bool:
        """Whether new clients are welcome."""
        return self._bridge is not None and not self.draining

    @property
    def bridge(self) -> Bridge:
        """Raises ResourceError (NOT_READY) while the model is loading."""
        if self._bridge is None:
            raise not_ready()
        return self._bridge

    async def parse(self, size_bytes: int, parse: Callable[[], InferRequest]) -> InferRequest:
        """Parse a request of so many bytes, in a thread where that takes long.

        Raises what `parse` does.
        """
        return parse() if size_bytes <= INLINE_BODY_BYTES else await asyncio.to_thread(parse)

    async def infer(self, request: InferRequest, render: Callable[[InferRequest, Answer], RenderedT]) -> RenderedT:
        """What `render` makes of the answer; it runs where the answer is computed.

        Raises ResourceError where too much waits already.
        """
        if self.short(request):
            self.take_comparisons()
            return self.infer_now(request, render)
        if self.feedback is not None:
            render = self.feedback.remembering(render)
        bridge, start = self.bridge, perf_counter()
        queued = await self._batcher.submit(
            cast("_Job[object]", _Job(request, render)),
            rows=len(request.rows),
            seconds=bridge.network.row_seconds * len(request.rows),
            kind=(request.options.neural_only, request.options.group),
            share=LOW_PRIORITY_SHARE if request.options.low_priority else 1.0,
        )
        done = cast("_Done[RenderedT]", queued)
        bridge.totals.served(done.path, perf_counter() - start)
        return done.rendered

    def take_comparisons(self) -> None:
        """Count a little of what comparisons have found: before the next request is routed, best while nobody waits."""
        if self._bridge is not None:
            self._bridge.take_comparisons(COMPARISONS_PER_REQUEST)

    def short(self, request: InferRequest) -> bool:
        """Whether the work takes less time than handing it to a thread would be worth."""
        return self.bridge.network.row_seconds * len(request.rows) <= INLINE_SECONDS

    def infer_now(self, request: InferRequest, render: Callable[[InferRequest, Answer], RenderedT]) -> RenderedT:
        """`infer` of short work, at once."""
        if self.feedback is not None:
            render = self.feedback.remembering(render)
        start = perf_counter()
        bridge, options = self._bridge or self.bridge, request.options
        outcome = bridge.infer(request.rows, neural_only=options.neural_only, group=options.group, trace=request.trace)
        told = explain(outcome, request.rows, bridge.network.plan) if options.explain else ""
        rendered = render(request, Answer(outcome, outcome.y, told))
        bridge.settle(outcome)
        bridge.totals.served(describe(outcome.served)[0], perf_counter() - start)
        return rendered

    def failed(self, error: Exception) -> EcompileError:
        """The error that the client is told, counted; what we did not expect goes to the log, not to the client."""
        if not isinstance(error, EcompileError):
            logger.error("request failed", exc_info=error)
            error = InternalError(Code.INTERNAL, "the request failed; see the pod's log.")
        if self._bridge is not None:
            self._bridge.totals.failed(int(error.code))
        return error

    def _settle(self, done: _Done[object]) -> None:
        for outcome, requests in done.settle:
            self.bridge.settle(outcome, requests=requests)

    def _run(self, jobs: Sequence[_Job[object]]) -> Sequence[_Done[object] | Exception]:
        """In a thread of the batcher."""
        bridge = self.bridge
        if len(jobs) > 1:
            try:
                together = _together(bridge, jobs)
            except Exception:
                logger.exception("a batch failed; its requests are answered one by one")
            else:
                if together is not None:
                    return together
        results: list[_Done[object] | Exception] = []
        for job in jobs:
            try:
                results.append(_alone(bridge, job))
            except Exception as error:  # belongs to this request only
                results.append(error)
        return results


def not_ready() -> ResourceError:
    """The error while the model is loading."""
    return ResourceError(
        Code.NOT_READY, "the model is still loading; try again.", retry_after_seconds=NOT_READY_RETRY_SECONDS
    )


def _alone(bridge: Bridge, job: _Job[RenderedT]) -> _Done[RenderedT]:
    request = job.request
    options = request.options
    outcome = bridge.infer(request.rows, neural_only=options.neural_only, group=options.group, trace=request.trace)
    answer = _answer(bridge, request, outcome, outcome.y)
    return _Done(job.render(request, answer), outcome.path, ((outcome, 1),))


def _together(bridge: Bridge, jobs: Sequence[_Job[RenderedT]]) -> list[_Done[RenderedT]] | None:
    """One pass for all. None where a module refused: then each is asked alone, so that one client's input is not
    counted against the others'."""
    rows = np.concatenate([job.request.rows for job in jobs])
    options = jobs[0].request.options
    outcome = bridge.infer(rows, neural_only=options.neural_only, group=options.group)
    if not _REFUSED.isdisjoint(outcome.served):
        return None
    results: list[_Done[RenderedT]] = []
    start = 0
    for job in jobs:
        end = start + len(job.request.rows)
        answer = _answer(bridge, job.request, outcome, outcome.y[start:end])
        settle = ((outcome, len(jobs)),) if start == 0 else ()
        results.append(_Done(job.render(job.request, answer), outcome.path, settle))
        start = end
    return results


def _answer(bridge: Bridge, request: InferRequest, outcome: Outcome, y: Rows) -> Answer:
    told = explain(outcome, request.rows, bridge.network.plan) if request.options.explain else ""
    return Answer(outcome, y, told)
