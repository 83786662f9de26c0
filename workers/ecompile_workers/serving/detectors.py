"""Sequential tests that may be looked at after every observation. Pure; the watch of a segment owns one of each.

An e-detector (Shin, Ramdas and Rinaldo, "E-detectors", 2023): M_n = (M_{n-1} + 1) * L_n, the Shiryaev-Roberts
recursion over e-values L_n. While the mean stays at or below the limit, E[L_n | past] <= 1, so the expected number of
observations before M reaches c is at least c: the threshold *is* the false-alarm interval.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

BETS: Final = (0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
"""Shares of the capital staked on "the mean is above the limit"; a mixture, so that small and gross excesses both are
found. L = 1 + bet * (x / limit - 1), never negative for bet < 1 and x >= 0. At a limit of 5 % these are the bets
1, 2, 4, 8, 14 and 19 on x - limit; delays are in docs/benchmarks.md."""
CEILING: Final = 1e200
"""Values stop growing here: far past any threshold, far from overflow."""
OBSERVATION_CAP: Final = 1.0
"""Observations are clipped to [0, 1]. Clipping only lowers the mean, so the false-alarm bound still holds; a relative
error of 1 (as wrong as answering zero) already trips a limit of 2e-3 within 3 observations."""
MIN_LATENCY_SAMPLES: Final = 200
UNPAIRED: Final = 64
"""Observations of one side of a gap that wait for the other side; the oldest make room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wealth:
    """What one detector has seen: fields of control.proto DetectorEvidence."""

    observations: int
    e_value: float
    log_wealth: tuple[float, ...]
    """Per bet, the sum of log L: evidence of several pods is multiplied by adding these (decision 0013)."""
    mean: float
    limit: float


class MeanDetector:
    """Is the mean of observations in [0, 1] above `limit`?"""

    __slots__ = (
        "_log_offsets",
        "_log_wealth",
        "_observations",
        "_offsets",
        "_slopes",
        "_sum",
        "_threshold",
        "_values",
        "_zeros",
        "limit",
    )

    def __init__(self, *, limit: float, interval: float, bets: Sequence[float] = BETS) -> None:
        self.limit = limit
        self._threshold = interval
        self._offsets = tuple(1.0 - bet for bet in bets)
        self._log_offsets = tuple(math.log(offset) for offset in self._offsets)
        self._slopes = tuple(bet / limit for bet in bets)
        self._values = [0.0] * len(self._slopes)
        self._log_wealth = [0.0] * len(self._slopes)
        self._zeros = 0
        self._observations = 0
        self._sum = 0.0

    def observe_zero(self) -> None:
        """Take an observation of 0. It is only counted: it lowers evidence and cannot bring an alarm about, so what it
        does to the values is worked out when they are wanted. This is what an answered request costs."""
        self._zeros += 1

    def observe(self, value: float) -> bool:
        """Take one observation; True where the detector is past its threshold. Not a number counts as 1."""
        x = min(max(value, 0.0), OBSERVATION_CAP) if value == value else OBSERVATION_CAP
        if self._zeros:
            self._settle()
        self._observations += 1
        self._sum += x
        values, wealth = self._values, self._log_wealth
        for position, offset in enumerate(self._offsets):
            factor = offset + self._slopes[position] * x
            values[position] = min((values[position] + 1.0) * factor, CEILING)
            wealth[position] += math.log(factor)
        return sum(values) / len(values) >= self._threshold

    def _settle(self) -> None:
        """k observations of 0, with a = 1 - bet: M becomes a^k M + a (1 - a^k) / (1 - a)."""
        zeros, self._zeros = self._zeros, 0
        self._observations += zeros
        for position, offset in enumerate(self._offsets):
            shrunk = offset**zeros
            self._values[position] = shrunk * self._values[position] + offset * (1.0 - shrunk) / (1.0 - offset)
            self._log_wealth[position] += zeros * self._log_offsets[position]

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        self._settle()
        return {
            "values": list(self._values),
            "logWealth": list(self._log_wealth),
            "observations": self._observations,
            "sum": self._sum,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from another detector's state.

        Raises KeyError, TypeError or ValueError where it is not one, or has other bets.
        """
        values, wealth = ([float(each) for each in state[name]] for name in ("values", "logWealth"))
        if len(values) != len(self._values) or len(wealth) != len(values):
            raise ValueError(f"{len(values)} values for {len(self._values)} bets")
        self._values, self._log_wealth, self._zeros = values, wealth, 0
        self._observations, self._sum = int(state["observations"]), float(state["sum"])

    @property
    def value(self) -> float:
        """The e-value: mean over the bets."""
        self._settle()
        return sum(self._values) / len(self._values)

    @property
    def past_threshold(self) -> bool:
        """Whether it alarms."""
        return self.value >= self._threshold

    def wealth(self) -> Wealth:
        """What it has seen."""
        e_value, seen = self.value, self._observations
        mean = self._sum / seen if seen else 0.0
        return Wealth(
            observations=seen, e_value=e_value, log_wealth=tuple(self._log_wealth), mean=mean, limit=self.limit
        )


class GapDetector:
    """Is the mean of one group's observations in [0, 1] above that of all others by more than `max_gap`?

    Observations of the two sides are paired as they come: d = (x - x' + 1) / 2 lies in [0, 1] and has a mean of at most
    (1 + max_gap) / 2 while the gap is within its limit, so a MeanDetector on d has its false-alarm interval, in pairs.
    Which observations are paired depends on their order, not on their values. What waits for the other side is dropped
    when there is too much of it, oldest first.
    """

    __slots__ = ("_mine", "_others", "_pairs", "max_gap")

    def __init__(self, *, max_gap: float, interval: float) -> None:
        self.max_gap = max_gap
        self._pairs = MeanDetector(limit=(1.0 + max_gap) / 2.0, interval=interval)
        self._mine: deque[float] = deque(maxlen=UNPAIRED)
        self._others: deque[float] = deque(maxlen=UNPAIRED)

    def observe(self, value: float, *, mine: bool) -> bool:
        """Take one observation of the group (`mine`) or of another one; True where it alarms."""
        waiting, partners = (self._mine, self._others) if mine else (self._others, self._mine)
        if not partners:
            waiting.append(value)
            return False
        partner = partners.popleft()
        difference = value - partner if mine else partner - value
        return self._pairs.observe((difference + 1.0) / 2.0)

    def state(self) -> dict[str, Any]:
        """What `restore` takes; observations without a partner are left out."""
        return self._pairs.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from another detector's state.

        Raises KeyError, TypeError or ValueError where it is not one.
        """
        self._pairs.restore(state)

    @property
    def value(self) -> float:
        """The e-value."""
        return self._pairs.value

    def wealth(self) -> Wealth:
        """What it has seen, as gaps: mean and limit are differences between the groups."""
        pairs = self._pairs.wealth()
        return Wealth(
            observations=pairs.observations,
            e_value=pairs.e_value,
            log_wealth=pairs.log_wealth,
            mean=2.0 * pairs.mean - 1.0 if pairs.observations else 0.0,
            limit=self.max_gap,
        )


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
