"""Distances between two sets of outputs. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY = 1e-6

Outputs = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far `compiled` is from `original`."""

    rows: int
    delta: float
    """Mean over rows of ||y - y'|| / (||y|| + 1e-6)."""
    delta_max: float
    correlation: float
    """Pearson r over all outputs; 1 where both are constant and equal."""
    max_deviation: float
    """Largest |y - y'|, divided by the largest |y| where that exceeds 1."""
    agreement: float
    """Share of rows with the same largest output; 1 for a single output."""


def row_delta(original: Outputs, compiled: Outputs) -> NDArray[np.float64]:
    """Relative error of each row, ||y - y'|| / (||y|| + 1e-6); infinite where it is not a number."""
    y, z = original.astype(np.float64), compiled.astype(np.float64)
    errors = np.linalg.norm(y - z, axis=1) / (np.linalg.norm(y, axis=1) + TINY)
    return np.where(np.isfinite(errors), errors, np.inf)


def compare(original: Outputs, compiled: Outputs) -> Comparison:
    """Compare rows of outputs [rows, outputs]; at least one row."""
    y, z = original.astype(np.float64), compiled.astype(np.float64)
    errors = row_delta(original, compiled)
    deviation = float(np.abs(y - z).max())
    scale = max(1.0, float(np.abs(y).max()))
    return Comparison(
        rows=len(y),
        delta=float(errors.mean()),
        delta_max=float(errors.max()),
        correlation=pearson(y, z),
        max_deviation=deviation / scale if math.isfinite(deviation) else math.inf,
        agreement=float((y.argmax(axis=1) == z.argmax(axis=1)).mean()),
    )


def pearson(y: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    """Pearson's r over all elements."""
    a, b = y.ravel() - y.mean(), z.ravel() - z.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    if scale == 0.0:
        return 1.0 if np.array_equal(y, z) else 0.0
    value = float(a @ b) / scale
    return value if math.isfinite(value) else 0.0


def clopper_pearson_upper(violations: int, samples: int, confidence: float) -> float:
    """One-sided upper bound of a binomial probability (Clopper and Pearson, 1934), by bisection of its tail.

    For no violations it is 1 - (1 - confidence)^(1/samples), about 3/samples at 95 %.
    """
    if samples == 0 or violations >= samples:
        return 1.0
    if violations == 0:
        return float(1.0 - (1.0 - confidence) ** (1.0 / samples))
    low, high = violations / samples, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_cdf(violations, samples, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    top = max(logs)
    return math.exp(top) * sum(math.exp(value - top) for value in logs)
