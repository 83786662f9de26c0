"""Sequential tests that are valid at every moment: e-detectors.

Shiryaev-Roberts e-detector with a mixture of bets (Shin, Ramdas, Rinaldo: "E-detectors: a nonparametric framework for
sequential change detection", 2023). For observations in [0, 1] whose mean, given the past, is at most `limit`, the
expected number of observations up to a false alarm is at least `false_alarm_interval`.
"""

from __future__ import annotations

BETS = (0.05, 0.1, 0.2, 0.4, 0.7)
"""Bets as shares of the largest that keeps every factor positive, 1 / limit."""


class EDetector:
    """Alarms when the mean of [0, 1]-bounded observations exceeds `limit`."""

    def __init__(self, limit: float, false_alarm_interval: float) -> None:
        self.limit = limit
        self.threshold = false_alarm_interval
        self._bets = tuple(share / limit for share in BETS)
        self._values = [0.0] * len(BETS)
        self.observations = 0
        self.total = 0.0

    @property
    def value(self) -> float:
        """The e-value of the mixture."""
        return sum(self._values) / len(self._values)

    @property
    def mean(self) -> float:
        return self.total / self.observations if self.observations else 0.0

    @property
    def alarmed(self) -> bool:
        return self.value >= self.threshold

    def update(self, observation: float) -> bool:
        """Take one observation in [0, 1]; True once the alarm stands. M <- (M + 1) (1 + bet (x - limit))."""
        excess = observation - self.limit
        cap = 1e300
        self._values = [
            min(cap, (m + 1.0) * (1.0 + bet * excess)) for m, bet in zip(self._values, self._bets, strict=True)
        ]
        self.observations += 1
        self.total += observation
        return self.alarmed


DELTA_CAP_FACTOR = 50.0
"""Relative errors are cut off at this multiple of the limit: an e-detector needs a bound, and anything that far off
alarms within a few observations."""


class DeltaDetector:
    """Alarms when the mean relative error exceeds `limit`."""

    def __init__(self, limit: float, false_alarm_interval: float) -> None:
        self.limit = limit
        self._cap = DELTA_CAP_FACTOR * limit
        self._detector = EDetector(1.0 / DELTA_CAP_FACTOR, false_alarm_interval)

    @property
    def value(self) -> float:
        return self._detector.value

    def update(self, delta: float) -> bool:
        """Take one relative error, >= 0; anything that is not a number counts as the cap."""
        share = delta / self._cap if delta <= self._cap else 1.0
        return self._detector.update(share)
