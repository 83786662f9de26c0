"""How far from the calibration sample an input may be for a module to answer it: conformal risk control. Pure.

Of n calibration rows that did not fit the reference, those with a relative error beyond the limit are the violations,
each with its distance. With "answer rows up to distance t", the loss of a row is 1 where it is a violation within t: it
grows with t, so for the largest t at which (violations within t + 1) / (n + 1) <= alpha, the probability that a new,
exchangeable row is answered beyond the limit is at most alpha (Angelopoulos, Bates, Fisch, Lei and Schuster, "Conformal
risk control", 2024, theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1
META: Final = "calibratedRisk"
"""In meta.json of a bundle; a bundle without it is older, or was made without a reference."""


@dataclass(frozen=True, kw_only=True)
class CalibratedRisk:
    """What calibration says of a module."""

    samples: int
    limit: float
    """Relative error above which a row is a violation."""
    violations: tuple[float, ...]
    """Their distances, ascending."""

    def threshold(self, max_risk: float) -> float:
        """Largest distance at which the risk is controlled: infinite where it is at any distance, negative at none.
        A sample too small to show such a risk forbids nothing while it has no violation."""
        allowed = math.floor(max_risk * (self.samples + 1) + 1e-9) - 1
        if allowed < 0:
            return -1.0 if self.violations else math.inf
        if len(self.violations) <= allowed:
            return math.inf
        return float(np.nextafter(self.violations[allowed], -np.inf))

    def to_meta(self) -> dict[str, Any]:
        """JSON values for the bundle."""
        return {
            "version": VERSION,
            "samples": self.samples,
            "limit": self.limit,
            "violations": list(self.violations),
        }


def calibrate(
    scores: NDArray[np.float64], errors: NDArray[np.float64], *, limit: float, samples: int | None = None
) -> CalibratedRisk:
    """From distances and relative errors of answered rows [rows]; `samples` counts refused rows too, which lose
    nothing."""
    found = np.sort(scores[~(errors <= limit)])
    return CalibratedRisk(
        samples=len(scores) if samples is None else samples,
        limit=limit,
        violations=tuple(float(value) for value in found),
    )


def from_meta(meta: Mapping[str, Any]) -> CalibratedRisk | None:
    """Of a bundle's meta.json; None where it says nothing, or says it as a later version does."""
    told = meta.get(META)
    try:
        if told is None or told["version"] != VERSION:
            return None
        return CalibratedRisk(
            samples=int(told["samples"]),
            limit=float(told["limit"]),
            violations=tuple(sorted(float(value) for value in told["violations"])),
        )
    except (KeyError, TypeError, ValueError):
        return None
