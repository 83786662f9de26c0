"""Attempts to break a bound: random inputs, corners, and steps along the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ecompile_workers.certify.network import Chain
from numpy.typing import NDArray

Values = NDArray[np.float64]
STEPS = 12


def preactivations(chain: Chain, rows: Values) -> list[Values]:
    """z of every layer for rows [n, inputs], in float64."""
    found, a = [], rows
    for layer in chain.layers:
        found.append(a @ layer.weight + layer.bias)
        a = np.maximum(found[-1], 0)
    return found


def gradient(chain: Chain, rows: Values, depth: int, unit: int) -> Values:
    """Of z[depth][unit] with respect to each row."""
    z = preactivations(chain, rows)
    back = np.broadcast_to(chain.layers[depth].weight[:, unit], (len(rows), chain.layers[depth].weight.shape[0]))
    for number in range(depth - 1, -1, -1):
        back = (back * (z[number] > 0)) @ chain.layers[number].weight.T
    return np.asarray(back)


def extremes(chain: Chain, lower: Values, upper: Values, *, seed: int) -> Iterator[tuple[int, int, float, float]]:
    """(layer, unit, least, greatest) value that was found for every unit."""
    rng = np.random.default_rng(seed)
    start = lower + (upper - lower) * rng.random((8, len(lower)))
    for depth in range(len(chain.layers)):
        for unit in range(chain.layers[depth].weight.shape[1]):
            values = []
            for sign in (-1.0, 1.0):
                rows = start
                for step in range(STEPS):
                    towards = np.where(sign * gradient(chain, rows, depth, unit) > 0, upper, lower)
                    rows = rows + (towards - rows) * (1.0 if step % 3 == 2 else 0.3)
                    values.append(preactivations(chain, rows)[depth][:, unit])
            yield depth, unit, float(np.min(values)), float(np.max(values))
