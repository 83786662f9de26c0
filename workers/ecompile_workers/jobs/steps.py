"""The steps of a Job as spans of its trace."""

from __future__ import annotations

from collections.abc import Callable

from ecompile_crds.tracing import Span, TraceContext, Tracer


class Steps:
    """A Job's progress, that makes a span of each step."""

    def __init__(self, tracer: Tracer, job: TraceContext, progress: Callable[[str, float], None]) -> None:
        self._tracer, self._job, self._progress = tracer, job, progress
        self._current: Span | None = None

    def __call__(self, step: str, fraction: float) -> None:
        """Tell the progress; a new step ends the one before."""
        if self._current is None or self._current.name != step:
            self.end()
            self._current = self._tracer.start(step, self._job)
        self._progress(step, fraction)

    def end(self) -> None:
        """The last step is over."""
        if self._current is not None:
            self._tracer.end(self._current)
            self._current = None
