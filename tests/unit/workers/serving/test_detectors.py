"""Sequential detectors: false alarms and delays by simulation (bar: the figures that the detector was chosen on)."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from ecompile_workers.serving.detectors import LatencyDetector, MeanDetector, Reservoir

INTERVAL = 1e6
RUNS = 30


def fallback_detector() -> MeanDetector:
    return MeanDetector(limit=0.05, interval=INTERVAL)


def first_alarm(detector: MeanDetector, values: list[float]) -> int | None:
    return next((n for n, value in enumerate(values, start=1) if detector.observe(value)), None)


@pytest.mark.parametrize("rate", [0.02, 0.04])
def test_no_false_alarm_below_the_fallback_limit(rate: float) -> None:
    """20,000 requests at 2 % and at 4 % fallbacks never alarm."""
    rng = np.random.default_rng(1)
    for _ in range(RUNS // 3):
        drawn = (rng.random(20_000) < rate).astype(float).tolist()
        assert first_alarm(fallback_detector(), drawn) is None


@pytest.mark.parametrize(("rate", "median"), [(0.10, 482), (0.20, 82), (0.50, 14)])
def test_delay_after_a_change_is_short(rate: float, median: int) -> None:
    """From 2 % to 10, 20 and 50 %: the median delay is within 35 % of the figure, and no alarm comes before."""
    rng = np.random.default_rng(2)
    delays = []
    for _ in range(RUNS):
        drawn = np.concatenate([rng.random(500) < 0.02, rng.random(5000) < rate]).astype(float).tolist()
        alarm = first_alarm(fallback_detector(), drawn)
        assert alarm is not None and alarm > 500
        delays.append(alarm - 500)
    assert statistics.median(delays) <= 1.35 * median


def test_delta_at_twice_the_limit_trips_within_200_comparisons() -> None:
    """Noisy relative errors with a mean of 4e-3 against a limit of 2e-3."""
    rng = np.random.default_rng(3)
    for _ in range(RUNS):
        detector = MeanDetector(limit=2e-3, interval=INTERVAL)
        alarm = first_alarm(detector, rng.exponential(4e-3, 2000).tolist())
        assert alarm is not None and alarm <= 200


def test_delta_below_the_limit_does_not_trip() -> None:
    """Noisy relative errors with a mean of half the limit; 20,000 comparisons."""
    rng = np.random.default_rng(4)
    for _ in range(RUNS // 3):
        detector = MeanDetector(limit=2e-3, interval=INTERVAL)
        assert first_alarm(detector, rng.exponential(1e-3, 20_000).tolist()) is None


def test_gross_delta_trips_within_three_comparisons() -> None:
    """A relative error of 1, after a long time without any."""
    detector = MeanDetector(limit=2e-3, interval=INTERVAL)
    assert first_alarm(detector, [1e-7] * 5000) is None
    alarm = first_alarm(detector, [1.0] * 10)
    assert alarm is not None and alarm <= 3


def test_not_a_number_counts_as_gross() -> None:
    """Neither NaN nor infinity silences the detector."""
    detector = MeanDetector(limit=2e-3, interval=INTERVAL)
    assert first_alarm(detector, [float("nan"), float("inf"), float("nan"), 0.0, 1.0]) is not None


def test_value_stays_finite_for_ever() -> None:
    """The e-value is reported long after the alarm."""
    detector = fallback_detector()
    first_alarm(detector, [0.0])
    for _ in range(10_000):
        detector.observe(1.0)
    assert np.isfinite(detector.value)


def test_reservoir_keeps_the_newest_samples() -> None:
    """The capacity bounds it."""
    reservoir = Reservoir(capacity=10)
    for sample in range(100):
        reservoir.add(float(sample))
    assert len(reservoir) == 10
    assert reservoir.quantiles()[0] == 94.5


def test_latency_regression_needs_200_samples() -> None:
    """Twice as slow is seen at 200 pairs, not before."""
    detector = LatencyDetector(limit=0.2)
    answers = [detector.observe(compiled_seconds=2e-6, neural_seconds=1e-6) for _ in range(200)]
    assert answers.index(True) == 199
    assert detector.regression == pytest.approx(1.0)


def test_latency_within_the_limit_is_no_regression() -> None:
    """10 % slower under a limit of 20 %."""
    detector = LatencyDetector(limit=0.2)
    assert not any(detector.observe(compiled_seconds=1.1e-6, neural_seconds=1e-6) for _ in range(1000))
