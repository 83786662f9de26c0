"""Which calls, rows and values a trace keeps. Pure; drawn from seeds, so that a capture can be repeated."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_VALUES = 4096
"""Per layer and row. Larger layers are sampled: statistics of 4,096 values are as good, and the cost has a bound."""
FINGERPRINT_DIGITS = 16


def fingerprint(*rows: NDArray[Any]) -> str:
    """First 16 hex digits of the SHA-256 of one input row (of each input, in order) as float32."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.ascontiguousarray(row, dtype="<f4").tobytes())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def positions(layer: str, size: int, *, limit: int, seed: int) -> NDArray[np.int64] | None:
    """Which of a row's `size` values are kept, ascending: at most `limit`, drawn once per layer; None: all."""
    if size <= limit:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    return np.sort(rng.choice(size, limit, replace=False)).astype(np.int64)


class Gaps:
    """How many calls pass until the next one is captured: a Bernoulli trial per call, without a draw per call."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._rng = np.random.default_rng(seed)

    def draw(self) -> int:
        """At least 1: the call that is captured counts. Geometric with mean 1 / rate."""
        return int(self._rng.geometric(self._rate))
