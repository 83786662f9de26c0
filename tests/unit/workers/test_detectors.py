"""Sequential detectors: few false alarms, short delays, on simulated streams."""

from __future__ import annotations

import numpy as np
import pytest
from ecompile_workers.serving.detectors import DeltaDetector, EDetector

LIMIT, INTERVAL = 0.05, 1e6


def delay(detector: EDetector, stream: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int | None:
    return next((i + 1 for i, value in enumerate(stream) if detector.update(float(value))), None)


@pytest.mark.parametrize("rate", [0.02, 0.04])
def test_no_false_alarm_below_the_limit(rate: float) -> None:
    for seed in range(10):
        stream = (np.random.default_rng(seed).random(20_000) < rate).astype(float)
        assert delay(EDetector(LIMIT, INTERVAL), stream) is None


@pytest.mark.parametrize(("rate", "most"), [(0.10, 800), (0.20, 160), (0.50, 40)])
def test_alarm_comes_soon_above_the_limit(rate: float, most: int) -> None:
    delays = []
    for seed in range(20):
        stream = (np.random.default_rng(seed).random(5000) < rate).astype(float)
        found = delay(EDetector(LIMIT, INTERVAL), stream)
        assert found is not None
        delays.append(found)
    assert float(np.median(delays)) <= most


def test_gross_delta_alarms_within_a_few_comparisons() -> None:
    detector = DeltaDetector(2e-3, INTERVAL)
    assert any(detector.update(1.0) for _ in range(10))


def test_not_a_number_counts_as_gross() -> None:
    detector = DeltaDetector(2e-3, INTERVAL)
    assert any(detector.update(float("nan")) for _ in range(10))


def test_tiny_deltas_never_alarm() -> None:
    detector = DeltaDetector(2e-3, INTERVAL)
    assert not any(detector.update(1e-6) for _ in range(20_000))
