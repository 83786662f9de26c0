"""Inputs that a module is tested on: held-out rows first, then rows made from them, then out-of-distribution rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
JITTER = 0.02
"""Standard deviation of the noise on resampled rows, as a share of each feature's spread."""


def at_least(rows: Rows, wanted: int, *, seed: int, integers: Sequence[slice] = ()) -> tuple[Rows, int]:
    """`rows`, filled up to `wanted` with jittered resamples; returns the rows and how many were made."""
    missing = max(0, wanted - len(rows))
    if missing == 0:
        return rows, 0
    rng = np.random.default_rng(seed)
    picked = rows[rng.integers(len(rows), size=missing)]
    noise = rng.normal(size=picked.shape) * JITTER * rows.std(axis=0)
    return np.concatenate([rows, snapped((picked + noise).astype(np.float32), rows, integers)]), missing


def snapped(rows: Rows, like: Rows, integers: Sequence[slice]) -> Rows:
    """`rows` with whole numbers in the columns `integers`, within the range that they have in `like`: a network that is
    asked for a word that does not exist computes nothing."""
    for columns in integers:
        seen = like[:, columns]
        rows[:, columns] = np.clip(np.rint(rows[:, columns]), seen.min(), seen.max())
    return rows


def out_of_distribution(rows: Rows, wanted: int, *, seed: int, integers: Sequence[slice] = ()) -> dict[str, Rows]:
    """Families of inputs unlike the given rows, `wanted` or more in all."""
    rng = np.random.default_rng(seed)
    count = -(-wanted // 5)

    def pick() -> Rows:
        return rows[rng.integers(len(rows), size=count)]

    spread = rows.std(axis=0) + 1e-6
    share = rng.random((count, 1))
    corrupted = pick().copy()
    corrupted[rng.random(corrupted.shape) < 0.2] = 0.0
    families = {
        "noise": pick() + rng.normal(size=(count, rows.shape[1])) * spread * 0.5,
        "scaling": pick() * rng.uniform(0.5, 2.0, size=(count, 1)),
        "interpolation": share * pick() + (1 - share) * pick(),
        "corruption": corrupted,
        "far": pick() + rng.choice([-1.0, 1.0], size=(count, 1)) * 10.0 * spread,
    }
    return {
        name: snapped(np.ascontiguousarray(values, dtype=np.float32), rows, integers)
        for name, values in families.items()
    }


def non_finite(rows: Rows) -> Rows:
    """Rows with one value that is NaN or infinite: every module must refuse them."""
    bad = np.repeat(rows[:1], 3, axis=0).copy()
    bad[0, 0], bad[1, -1], bad[2, 0] = np.nan, np.inf, -np.inf
    return bad
