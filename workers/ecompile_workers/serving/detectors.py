"""Sequential tests that may be looked at after every observation. Pure; the watch of a segment owns one of each.

An e-detector (Shin, Ramdas and Rinaldo, "E-detectors", 2023): M_n = (M_{n-1} + 1) * L_n, the Shiryaev-Roberts
recursion over e-values L_n. While the mean stays at or below the limit, E[L_n | past] <= 1, so the expected number of
observations before M reaches c is at least c: the threshold *is* the false-alarm interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

BETS: Final = (0.05, 0.1, 0.2, 0.4, 0.7)
"""Shares of the capital staked on "the mean is above the limit"; a mixture, so that small and gross excesses both are
found. L = 1 + bet * (x / limit - 1), never negative for bet < 1 and x >= 0. At a limit of 5 % these are the bets
1, 2, 4, 8 and 14 on x - limit: median delays of 482, 82 and 14 observations at rates of 10, 20 and 50 %."""
CEILING: Final = 1e200
"""Values stop growing here: far past any threshold, far from overflow."""
OBSERVATION_CAP: Final = 1.0
"""Observations are clipped to [0, 1]. Clipping only lowers the mean, so the false-alarm bound still holds; a relative
error of 1 (as wrong as answering zero) already trips a limit of 2e-3 within 3 observations."""
MIN_LATENCY_SAMPLES: Final = 200


class MeanDetector:
    """Is the mean of observations in [0, 1] above `limit`?"""

    __slots__ = ("_offsets", "_slopes", "_threshold", "_values", "limit")

    def __init__(self, *, limit: float, interval: float, bets: Sequence[float] = BETS) -> None:
        self.limit = limit
        self._threshold = interval
        self._offsets = tuple(1.0 - bet for bet in bets)
        self._slopes = tuple(bet / limit for bet in bets)
        self._values = [0.0] * len(self._slopes)

    def observe(self, value: float) -> bool:
        """Take one observation; True where the detector is past its threshold. Not a number counts as 1."""
        x = min(max(value, 0.0), OBSERVATION_CAP) if value == value else OBSERVATION_CAP
        values = self._values
        for position, offset in enumerate(self._offsets):
            values[position] = min((values[position] + 1.0) * (offset + self._slopes[position] * x), CEILING)
        return self.value >= self._threshold

    def state(self) -> list[float]:
        """What `restore` takes."""
        return list(self._values)

    def restore(self, values: Sequence[float]) -> None:
        """Go on from another detector's state.

        Raises ValueError where it has other bets.
        """
        if len(values) != len(self._values):
            raise ValueError(f"{len(values)} values for {len(self._values)} bets")
        self._values = [float(value) for value in values]

    @property
    def value(self) -> float:
        """The e-value: mean over the bets."""
        return sum(self._values) / len(self._values)


class Reservoir:
    """The newest `capacity` samples."""

    __slots__ = ("_capacity", "_next", "_samples")

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._samples: list[float] = []
        self._next = 0

    def add(self, sample: float) -> None:
        """Take a sample; the oldest makes room."""
        if len(self._samples) < self._capacity:
            self._samples.append(sample)
        else:
            self._samples[self._next] = sample
            self._next = (self._next + 1) % self._capacity

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self) -> list[float]:
        """Oldest first."""
        return self._samples[self._next :] + self._samples[: self._next]

    def quantiles(self) -> tuple[float, float]:
        """Median and 99th percentile; zeros while empty."""
        if not self._samples:
            return 0.0, 0.0
        median, high = np.percentile(self._samples, (50, 99))
        return float(median), float(high)


class LatencyDetector:
    """Is the module slower than the neural path by more than `limit`? Medians of paired samples taken on this pod."""

    __slots__ = ("_seen", "compiled", "limit", "neural")

    CHECK_EVERY = 50
    """Samples between two looks: sorting a reservoir costs about 20 microseconds."""

    def __init__(self, *, limit: float) -> None:
        self.limit = limit
        self.compiled = Reservoir()
        self.neural = Reservoir()
        self._seen = 0

    def observe(self, *, compiled_seconds: float, neural_seconds: float) -> bool:
        """Take one pair; True where the medians breach the limit."""
        self.compiled.add(compiled_seconds)
        self.neural.add(neural_seconds)
        self._seen += 1
        if len(self.compiled) < MIN_LATENCY_SAMPLES or self._seen % self.CHECK_EVERY:
            return False
        return self.regression > self.limit

    def state(self) -> list[list[float]]:
        """What `restore` takes."""
        return [self.compiled.samples(), self.neural.samples()]

    def restore(self, samples: Sequence[Sequence[float]]) -> None:
        """Go on from another detector's state."""
        compiled, neural = samples
        for reservoir, values in ((self.compiled, compiled), (self.neural, neural)):
            for value in values:
                reservoir.add(float(value))

    @property
    def regression(self) -> float:
        """compiled p50 / neural p50 - 1; zero while there are no samples."""
        neural, _ = self.neural.quantiles()
        return self.compiled.quantiles()[0] / neural - 1.0 if neural > 0 else 0.0
