"""Sequential detectors on simulated streams: false alarms and delays, ours against what is usually used.

    python bench/detectors.py [--json] [--runs N]

The question is that of `fallbackLimit`: is the share of refused requests above 5 %? A run has 20,000 requests at a
share below the limit (false alarms), or 500 of them and then the changed share (delay, in requests; an alarm before the
change counts as 0). All detectors see the same streams.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from ecompile_workers.serving.detectors import MeanDetector

LIMIT = 0.05
INTERVAL = 1e6
QUIET_REQUESTS = 20_000
BEFORE = 500
AFTER = 5000


class Detector(Protocol):
    """What is compared."""

    def observe(self, value: float) -> bool:
        """Take one observation; True on an alarm."""


class Window:
    """The share in the last `size` requests is above the limit: a Prometheus alert on a rate."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = 0.0

    def observe(self, value: float) -> bool:
        if len(self._values) == self._values.maxlen:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value
        return len(self._values) == self._values.maxlen and self._sum / len(self._values) > LIMIT


class Cusum:
    """Log-likelihood ratio of a share of 10 % against 5 %, threshold ln(1e6): needs to know what it looks for."""

    def __init__(self) -> None:
        self._hit = math.log(0.10 / LIMIT)
        self._miss = math.log(0.90 / (1 - LIMIT))
        self._sum = 0.0

    def observe(self, value: float) -> bool:
        self._sum = max(0.0, self._sum + (self._hit if value else self._miss))
        return self._sum > math.log(INTERVAL)


class PageHinkley:
    """As in river: delta 0.005, threshold 50, from the 30th observation on; looks for any rise of the mean."""

    def __init__(self) -> None:
        self._count, self._mean, self._sum, self._least = 0, 0.0, 0.0, 0.0

    def observe(self, value: float) -> bool:
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._sum = 0.9999 * self._sum + value - self._mean - 0.005
        self._least = min(self._least, self._sum)
        return self._count >= 30 and self._sum - self._least > 50


class Adwin:
    """ADWIN (Bifet and Gavalda, 2007) with confidence 0.002, on a window of 2,000, cut at powers of two, every 32nd."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=2000)
        self._seen = 0

    def observe(self, value: float) -> bool:
        self._values.append(value)
        self._seen += 1
        if self._seen % 32 or len(self._values) < 64:
            return False
        values = np.asarray(self._values)
        total, count = np.cumsum(values), len(values)
        recent = 2 ** np.arange(5, int(math.log2(count)) + 1)
        recent = recent[recent < count]
        old = count - recent
        mean_old, mean_recent = total[old - 1] / old, (total[-1] - total[old - 1]) / recent
        harmonic = 1 / (1 / old + 1 / recent)
        spread = math.log(2 * math.log(count) / 0.002)
        cut = np.sqrt(2 / harmonic * values.var() * spread) + 2 / (3 * harmonic) * spread
        return bool((mean_recent - mean_old > cut).any())


DETECTORS: dict[str, Callable[[], Detector]] = {
    "e-detector (ours)": lambda: MeanDetector(limit=LIMIT, interval=INTERVAL),
    "window of 200": lambda: Window(200),
    "window of 1,000": lambda: Window(1000),
    "CUSUM": Cusum,
    "Page-Hinkley": PageHinkley,
    "ADWIN": Adwin,
}


def first_alarm(detector: Detector, stream: list[float]) -> int | None:
    """Observations up to the first alarm."""
    return next((n for n, value in enumerate(stream, start=1) if detector.observe(value)), None)


def false_alarms(make: Callable[[], Detector], share: float, runs: int) -> float:
    """Share of the runs below the limit that have an alarm."""
    found = 0
    for seed in range(runs):
        stream = (np.random.default_rng(seed).random(QUIET_REQUESTS) < share).astype(float).tolist()
        found += first_alarm(make(), stream) is not None
    return found / runs


def delays(make: Callable[[], Detector], share: float, runs: int) -> tuple[float | None, float]:
    """Median delay after a change from 2 % (None where most runs have no alarm), and the share of runs that miss it."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(1000 + seed)
        drawn = np.concatenate([rng.random(BEFORE) < 0.02, rng.random(AFTER) < share])
        alarm = first_alarm(make(), drawn.astype(float).tolist())
        found.append(math.inf if alarm is None else max(0, alarm - BEFORE))
    median = float(np.median(found))
    return (median if math.isfinite(median) else None), float(np.mean(np.isinf(found)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, make in DETECTORS.items():
        row: dict[str, Any] = {"name": name}
        for share in (0.02, 0.04):
            row[f"false alarms at {share:.0%}"] = false_alarms(make, share, arguments.runs)
        for share in (0.10, 0.20, 0.50):
            median, missed = delays(make, share, arguments.runs)
            row[f"delay at {share:.0%}"], row[f"missed at {share:.0%}"] = median, missed
        rows.append(row)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    print("| detector | runs with a false alarm at 2 % / 4 % | median delay at 10 / 20 / 50 % | missed at 10 % |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        alarms = " / ".join(f"{row[f'false alarms at {share}']:.0%}" for share in ("2%", "4%"))
        told = " / ".join(str(row[f"delay at {share}"]) for share in ("10%", "20%", "50%"))
        print(f"| {row['name']} | {alarms} | {told} | {row['missed at 10%']:.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
