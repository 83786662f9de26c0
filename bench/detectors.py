"""Sequential detectors on simulated streams: false alarms and delays, ours against what is usually used.

    python bench/detectors.py [--json] [--runs N] [--requests N]

Two questions. `fallbackLimit`: is the share of refused requests above 5 %? `driftLimit`: is the mean relative error
above 2e-3, of answers of which 5 % are compared? False alarms are counted in one stream of a million requests each; a
detector that alarms starts anew. A delay is counted in requests from a change, after 500 requests within the limit; an
alarm before the change counts as 0. All detectors see the same streams. Ours of the errors is the pod's own watch: it
compares each request after an error beyond the limit.
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
from ecompile_crds.hybridmodel import Analysis
from ecompile_workers.serving.breaker import SegmentWatch
from ecompile_workers.serving.comparison import Compared
from ecompile_workers.serving.counters import Tally
from ecompile_workers.serving.detectors import MeanDetector

LIMIT = 0.05
DRIFT_LIMIT = 2e-3
COMPARE = 0.05
INTERVAL = 1e6
BEFORE = 500
AFTER = 5000


class Detector(Protocol):
    """What is compared."""

    def observe(self, value: float) -> bool:
        """Take one observation; True on an alarm."""


class Window:
    """The share in the last `size` requests is above the limit: a Prometheus alert on a rate."""

    def __init__(self, size: int, limit: float = LIMIT) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = 0.0
        self._limit = limit

    def observe(self, value: float) -> bool:
        if len(self._values) == self._values.maxlen:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value
        return len(self._values) == self._values.maxlen and self._sum / len(self._values) > self._limit


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


class ExponentialCusum:
    """Log-likelihood ratio of exponential errors with a mean of twice the limit against one at the limit, threshold
    ln(1e6): needs to know the distribution."""

    def __init__(self) -> None:
        self._sum = 0.0

    def observe(self, value: float) -> bool:
        self._sum = max(0.0, self._sum - math.log(2.0) + value / DRIFT_LIMIT / 2.0)
        return self._sum > math.log(INTERVAL)


class Scaled:
    """A detector made for values of about the limit of shares, on relative errors."""

    def __init__(self, inner: Detector) -> None:
        self._inner = inner

    def observe(self, value: float) -> bool:
        return self._inner.observe(value * LIMIT / DRIFT_LIMIT)


class Pod:
    """The watch of a segment, as a pod has it."""

    def __init__(self) -> None:
        self.watch = SegmentWatch(segment=0, generation=1, analysis=Analysis(), total=Tally(), risk=0.999)
        """A risk of almost 1 leaves the test of the mean alone: more than 1 % of these errors lie beyond the limit,
        which the pod's other test is there to find."""

    def observe(self, value: float) -> bool:
        return self.watch.compared(Compared(self.watch, False, value, 1e-6, 5e-6)) is not None

    @property
    def suspicious(self) -> bool:
        return self.watch.suspicious


class Steady(Pod):
    """The same without comparing more after a bad answer."""

    @property
    def suspicious(self) -> bool:
        return False


DRIFT_DETECTORS: dict[str, Callable[[], Detector]] = {
    "e-detector in the pod (ours)": Pod,
    "the same, always 5 % compared": Steady,
    "window of 200": lambda: Window(200, DRIFT_LIMIT),
    "window of 1,000": lambda: Window(1000, DRIFT_LIMIT),
    "CUSUM": ExponentialCusum,
    "Page-Hinkley": lambda: Scaled(PageHinkley()),
    "ADWIN": lambda: Scaled(Adwin()),
}


def first_alarm(detector: Detector, stream: list[float]) -> int | None:
    """Observations up to the first alarm."""
    return next((n for n, value in enumerate(stream, start=1) if detector.observe(value)), None)


def false_alarms(make: Callable[[], Detector], stream: list[float]) -> int:
    """Alarms in a stream within the limit; after each one the detector starts anew."""
    found, detector = 0, make()
    for value in stream:
        if detector.observe(value):
            found, detector = found + 1, make()
    return found


def shares(share: float, count: int, *, seed: int) -> list[float]:
    """Refused (1) or not (0)."""
    drawn: list[float] = (np.random.default_rng(seed).random(count) < share).astype(float).tolist()
    return drawn


def errors(mean: float, count: int, *, seed: int) -> list[float]:
    """Relative errors, exponential."""
    drawn: list[float] = np.random.default_rng(seed).exponential(mean, count).tolist()
    return drawn


def summary(found: list[float]) -> tuple[float | None, float]:
    """Median (None where most runs have no alarm), and the share of runs without one."""
    median = float(np.median(found))
    return (median if math.isfinite(median) else None), float(np.mean(np.isinf(found)))


def delays(make: Callable[[], Detector], share: float, runs: int) -> list[float]:
    """Requests from a change of the share of refusals from 2 %."""
    found = []
    for seed in range(runs):
        stream = shares(0.02, BEFORE, seed=1000 + seed) + shares(share, AFTER, seed=2000 + seed)
        alarm = first_alarm(make(), stream)
        found.append(math.inf if alarm is None else max(0, alarm - BEFORE))
    return found


def drift_delays(make: Callable[[], Detector], mean: float, runs: int) -> list[float]:
    """Requests from a change of the mean error from half the limit; each is compared with a probability of 5 %."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        quiet, changed = errors(DRIFT_LIMIT / 2, BEFORE, seed=3000 + seed), errors(mean, 4 * AFTER, seed=4000 + seed)
        detector, alarm = make(), math.inf
        for number, (value, draw) in enumerate(zip(quiet + changed, rng.random(BEFORE + 4 * AFTER), strict=True)):
            if (draw < COMPARE or getattr(detector, "suspicious", False)) and detector.observe(value):
                alarm = max(0, number + 1 - BEFORE)
                break
        found.append(alarm)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the streams for false alarms")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, make in DETECTORS.items():
        row: dict[str, Any] = {"question": "refusals", "name": name}
        for share in (0.02, 0.04):
            row[f"false alarms at {share:.0%}"] = false_alarms(make, shares(share, arguments.requests, seed=1))
        for share in (0.10, 0.20, 0.50):
            row[f"delay at {share:.0%}"], row[f"missed at {share:.0%}"] = summary(delays(make, share, arguments.runs))
        rows.append(row)
    for name, make in DRIFT_DETECTORS.items():
        row = {"question": "errors", "name": name}
        for part in (0.25, 0.5):
            stream = errors(part * DRIFT_LIMIT, arguments.requests, seed=2)
            row[f"false alarms at {part:g} of the limit"] = false_alarms(make, stream)
        for times in (2, 5):
            found = drift_delays(make, times * DRIFT_LIMIT, arguments.runs)
            row[f"delay at {times} times"], row[f"missed at {times} times"] = summary(found)
            worst = float(np.quantile(found, 0.95, method="inverted_cdf"))
            row[f"p95 at {times} times"] = worst if math.isfinite(worst) else None
        rows.append(row)
    print(json.dumps(rows, indent=1) if arguments.json else tables(rows))
    return 0


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| refusals, limit 5 % | false alarms in the stream at 2 % / 4 % "
        "| median delay at 10 / 20 / 50 % | missed at 10 % |",
        "| --- | --- | --- | --- |",
    ]
    for row in (row for row in rows if row["question"] == "refusals"):
        alarms = " / ".join(str(row[f"false alarms at {share}"]) for share in ("2%", "4%"))
        told = " / ".join(str(row[f"delay at {share}"]) for share in ("10%", "20%", "50%"))
        lines.append(f"| {row['name']} | {alarms} | {told} | {row['missed at 10%']:.0%} |")
    lines += [
        "",
        "| errors, limit 2e-3, 5 % compared | false alarms at 0.25 / 0.5 of the limit "
        "| median (p95) delay at 2 times | at 5 times | missed at 2 times |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in (row for row in rows if row["question"] == "errors"):
        alarms = " / ".join(str(row[f"false alarms at {part} of the limit"]) for part in ("0.25", "0.5"))
        told = " | ".join(f"{row[f'delay at {times} times']} ({row[f'p95 at {times} times']})" for times in (2, 5))
        lines.append(f"| {row['name']} | {alarms} | {told} | {row['missed at 2 times']:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
