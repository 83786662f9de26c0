"""What happened in this pod: per segment since a routing generation came into force, and in total since the start."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from .detectors import Wealth

LATENCY_BUCKETS_SECONDS: Final = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.1,
    0.5,
    2.5,
)
"""Upper bounds of the latency histogram: from a third of a small request to what a large batch may take."""


@dataclass(slots=True)
class Tally:
    """One segment in one generation. Written by the thread that answers requests only."""

    requests: int = 0
    compiled: int = 0
    fallbacks: int = 0
    guard_checked: int = 0
    comparisons: int = 0
    dropped_comparisons: int = 0
    delta_sum: float = 0.0
    delta_max: float = 0.0
    proven_comparisons: int = 0


@dataclass(slots=True)
class GroupTally:
    """Comparisons of one group in one generation."""

    comparisons: int = 0
    exceeded: int = 0
    """Of these, with a relative error beyond driftLimit."""


class Detectors(IntEnum):
    """Which sequential test; the numbers of control.proto Detector."""

    DELTA = 1
    EXCEEDANCE = 2
    REFUSAL = 3
    INPUTS = 4
    GAP = 5


@dataclass(frozen=True, kw_only=True)
class DetectorEvidence:
    """Fields of control.proto DetectorEvidence."""

    detector: Detectors
    group: str
    observations: int
    e_value: float
    log_wealth: tuple[float, ...]
    mean: float
    limit: float

    @staticmethod
    def of(detector: Detectors, group: str, wealth: Wealth) -> DetectorEvidence:
        """What a detector has seen, with its name."""
        return DetectorEvidence(
            detector=detector,
            group=group,
            observations=wealth.observations,
            e_value=wealth.e_value,
            log_wealth=wealth.log_wealth,
            mean=wealth.mean,
            limit=wealth.limit,
        )


@dataclass(frozen=True, kw_only=True)
class GroupCounters:
    """Fields of control.proto GroupCounters."""

    group: str
    comparisons: int
    exceeded: int


@dataclass(frozen=True, kw_only=True)
class SegmentCounters:
    """Fields of control.proto SegmentCounters, in the same order and with the same meaning."""

    segment: int
    requests: int
    compiled: int
    fallbacks: int
    guard_checked: int
    comparisons: int
    dropped_comparisons: int
    delta_sum: float
    delta_max: float
    proven_comparisons: int
    delta_e_value: float
    fallback_e_value: float
    compiled_p50_seconds: float
    neural_p50_seconds: float
    compiled_p99_seconds: float
    neural_p99_seconds: float
    latency_samples: int
    detectors: tuple[DetectorEvidence, ...] = ()
    groups: tuple[GroupCounters, ...] = ()


class Histogram:
    """Counts by latency bucket; the last count is for everything slower."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds


@dataclass(slots=True)
class Totals:
    """Since the process started; never reset, as Prometheus counters must not be."""

    latency: dict[str, Histogram] = field(default_factory=dict)
    """By path that served the whole request."""
    errors: dict[int, int] = field(default_factory=dict)
    """Requests answered with an error, by code."""
    segments: dict[int, Tally] = field(default_factory=dict)
    trips: dict[tuple[int, str], int] = field(default_factory=dict)
    """By segment and kind of alert."""
    requests: int = 0
    comparer_restarts: int = 0
    """Times that the comparing process has ended without being meant to."""

    def comparer_ended(self, *, meant: bool) -> None:
        """The comparing process has ended."""
        self.comparer_restarts += not meant

    def segment(self, index: int) -> Tally:
        return self.segments.setdefault(index, Tally())

    def served(self, path: str, seconds: float) -> None:
        """A request was answered with outputs."""
        histogram = self.latency.get(path)
        if histogram is None:
            histogram = self.latency[path] = Histogram()
        histogram.observe(seconds)

    def failed(self, code: int) -> None:
        """A request was answered with an error."""
        self.errors[code] = self.errors.get(code, 0) + 1
