"""What is known of one segment since a routing generation came into force: counters, detectors, breaker.

Written by the serving thread and the comparison thread under one lock that is held for microseconds.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from ecompile_crds.control import control_pb2
from ecompile_crds.hybridmodel import Analysis

from .detectors import DeltaDetector, EDetector

LATENCY_SAMPLES = 512
MIN_LATENCY_SAMPLES = 200
RECENT = 50
"""Requests and comparisons that an alert's figure is taken over; the decision to alert is the detector's."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Why the breaker tripped."""

    kind: int
    """control.proto, AlertKind."""
    segment: int
    value: float
    limit: float
    detail: str
    generation: int


class Monitor:
    """One segment under one generation."""

    def __init__(self, segment: int, generation: int, analysis: Analysis) -> None:
        self.segment = segment
        self.generation = generation
        self.tripped = False
        """Read without the lock before each request: once true, the segment is neural."""
        self.alert: Alert | None = None
        self._analysis = analysis
        self._lock = threading.Lock()
        self._fallback = EDetector(analysis.fallback_limit, analysis.false_alarm_interval)
        self._delta = DeltaDetector(analysis.drift_limit, analysis.false_alarm_interval)
        self._compiled_seconds: deque[float] = deque(maxlen=LATENCY_SAMPLES)
        self._neural_seconds: deque[float] = deque(maxlen=LATENCY_SAMPLES)
        self._recent_refusals: deque[float] = deque(maxlen=RECENT)
        self._recent_deltas: deque[float] = deque(maxlen=RECENT)
        self.requests = self.compiled = self.fallbacks = self.checked = 0
        self.comparisons = self.dropped = 0
        self.delta_sum = self.delta_max = 0.0

    def request(self, *, compiled: bool) -> None:
        """A request was answered."""
        with self._lock:
            self.requests += 1
            self.compiled += compiled

    def guarded(self, *, accepted: bool, detail: str = "") -> None:
        """The module was asked and answered, or refused."""
        with self._lock:
            self.checked += 1
            self.fallbacks += not accepted
            self._recent_refusals.append(0.0 if accepted else 1.0)
            if self._fallback.update(0.0 if accepted else 1.0) and not self.tripped:
                rate = sum(self._recent_refusals) / len(self._recent_refusals)
                limit = self._analysis.fallback_limit
                seen = len(self._recent_refusals)
                text = f"{rate:.0%} of the last {seen} requests refused, limit {limit:.0%} ({detail})"
                self._trip(control_pb2.FALLBACK, rate, limit, text)

    def compared(self, delta: float) -> None:
        """Both paths answered the same input."""
        with self._lock:
            self.comparisons += 1
            self.delta_sum += delta
            self.delta_max = max(self.delta_max, delta)
            self._recent_deltas.append(delta)
            if self._delta.update(delta) and not self.tripped:
                seen, limit = len(self._recent_deltas), self._analysis.drift_limit
                mean = sum(self._recent_deltas) / seen
                text = f"mean delta {mean:.2e} over the last {seen} comparisons, limit {limit:.2e}"
                self._trip(control_pb2.DRIFT, mean, limit, text)

    def fault(self, detail: str) -> None:
        """A gross fault: non-finite output or an exception. Trips at once."""
        with self._lock:
            if not self.tripped:
                self._trip(control_pb2.BREAKER, 1.0, 0.0, detail)

    def drop(self) -> None:
        """A comparison found no place in the queue."""
        with self._lock:
            self.dropped += 1

    def timed(self, *, compiled: float | None = None, neural: float | None = None) -> None:
        """Seconds that one call took."""
        with self._lock:
            if compiled is not None:
                self._compiled_seconds.append(compiled)
            if neural is not None:
                self._neural_seconds.append(neural)
            full = min(len(self._compiled_seconds), len(self._neural_seconds)) >= MIN_LATENCY_SAMPLES
            if not full or self.tripped or self.comparisons % 50:
                return
            limit = self._analysis.latency_regression_limit
            ratio = quantile(self._compiled_seconds, 0.5) / quantile(self._neural_seconds, 0.5) - 1.0
            if ratio > limit:
                text = f"compiled median latency is {ratio:+.0%} of neural, limit +{limit:.0%}"
                self._trip(control_pb2.LATENCY, ratio, limit, text)

    def _trip(self, kind: int, value: float, limit: float, detail: str) -> None:
        self.tripped = True
        self.alert = Alert(
            kind=kind, segment=self.segment, value=value, limit=limit, detail=detail, generation=self.generation
        )

    def to_message(self) -> control_pb2.SegmentCounters:
        """Counters for the operator."""
        with self._lock:
            compiled, neural = list(self._compiled_seconds), list(self._neural_seconds)
            return control_pb2.SegmentCounters(
                segment=self.segment,
                requests=self.requests,
                compiled=self.compiled,
                fallbacks=self.fallbacks,
                guard_checked=self.checked,
                comparisons=self.comparisons,
                dropped_comparisons=self.dropped,
                delta_sum=self.delta_sum,
                delta_max=self.delta_max,
                delta_e_value=self._delta.value,
                fallback_e_value=self._fallback.value,
                compiled_p50_seconds=quantile(compiled, 0.5),
                neural_p50_seconds=quantile(neural, 0.5),
                compiled_p99_seconds=quantile(compiled, 0.99),
                neural_p99_seconds=quantile(neural, 0.99),
                latency_samples=min(len(compiled), len(neural)),
            )


def quantile(values: deque[float] | list[float], share: float) -> float:
    """A sample quantile; 0 where there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
