"""The network on a box: units that cannot switch there are dropped or folded into what reads them.

The reduced network keeps a state: the inputs, then the units that are still computed, layer by layer. Each step reads
the state from some place on and appends its units; the last step gives the outputs. Where no unit of a layer can
switch, the layer vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..ir.graph import Array
from .bounds import Interval
from .network import TINY, Chain, Values, gamma, interval_product


class Fate(StrEnum):
    """What a box says of a unit, and what became of it."""

    OFF = "-"
    """Never positive: dropped."""
    FOLDED = "+"
    """Never negative: an affine map, folded into what reads it."""
    ON = "="
    """Never negative, yet computed on its own."""
    FREE = "."
    """May switch: computed."""


MARGIN = 1e-9
"""Relative to the unit's range; the arithmetic behind both bounds is good to about 1e-12."""

Fates = NDArray[np.str_]
"""One character per unit."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """state[size:] = act(state[start:] @ weight + bias); weight [size - start, units] float32."""

    start: int
    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True)
class ExactStep:
    """What a step stands for in real numbers, each known up to a radius; weight [size of the state, units]."""

    weight: Values
    weight_radius: Values
    bias: Values
    bias_radius: Values


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Code for one box: the fate of each hidden unit, the steps, and what they stand for."""

    fates: tuple[Fates, ...]
    steps: tuple[Step, ...]
    exact: tuple[ExactStep, ...]

    @property
    def macs(self) -> int:
        return sum(step.weight.size for step in self.steps)


def choose_fates(z: Sequence[Interval], box: int, dense_layers: int) -> tuple[Fates, ...]:
    """Fates on one box; units of the first `dense_layers` hidden layers that are always on are computed, not folded.

    A unit is said to be fixed only where its bound is clear of zero by `MARGIN`, so that the checker, which rounds
    differently, finds the same. Folding all makes every later step read the inputs; where the inputs are many, that
    costs more than it saves.
    """
    found = []
    for number, interval in enumerate(z[:-1]):
        lower, upper = interval.lower[box], interval.upper[box]
        on = Fate.ON if number < dense_layers else Fate.FOLDED
        margin = MARGIN * (np.abs(lower) + np.abs(upper))
        stays = np.where(lower >= margin, on.value, Fate.FREE.value)
        found.append(np.where(upper <= -margin, Fate.OFF.value, stays))
    return tuple(found)


def counted_macs(chain: Chain, fates: Sequence[Fates]) -> tuple[int, int]:
    """(multiply-adds, steps) of the reduced network, without making it."""
    total = count = 0
    start, size = 0, chain.inputs
    for fate in fates:
        kept = int(((fate == Fate.ON) | (fate == Fate.FREE)).sum())
        folded = bool((fate == Fate.FOLDED).any())
        if kept:
            total += (size - start) * kept
            count += 1
        if not folded:
            start = size
        size += kept
    return total + (size - start) * chain.outputs, count + 1


def reduce(chain: Chain, fates: tuple[Fates, ...]) -> Reduced:
    """The reduced network, exact up to the radii, and its float32 weights, rounded to nearest."""
    size = chain.inputs
    # Activations of the layer before, in terms of the state: state @ weight + bias.
    weight, weight_radius = np.eye(size), np.zeros((size, size))
    bias, bias_radius = np.zeros(size), np.zeros(size)
    exact: list[ExactStep] = []
    for number, layer in enumerate(chain.layers):
        through, through_radius = interval_product(weight, weight_radius, layer.weight, layer.weight_radius)
        moved, moved_radius = interval_product(bias[None], bias_radius[None], layer.weight, layer.weight_radius)
        shift = moved[0] + layer.bias
        shift_radius = moved_radius[0] + layer.bias_radius + (np.abs(moved[0]) + np.abs(layer.bias)) * gamma(1) + TINY
        fate = fates[number] if number < len(fates) else np.full(chain.outputs, Fate.FREE.value)
        kept = (fate == Fate.ON) | (fate == Fate.FREE)
        if kept.any():
            exact.append(
                ExactStep(
                    weight=through[:, kept],
                    weight_radius=through_radius[:, kept],
                    bias=shift[kept],
                    bias_radius=shift_radius[kept],
                )
            )
        folded = (fate == Fate.FOLDED).astype(np.float64)
        weight = np.concatenate([through * folded, np.eye(fate.size)[kept]])
        weight_radius = np.concatenate([through_radius * folded, np.zeros((int(kept.sum()), fate.size))])
        bias, bias_radius = shift * folded, shift_radius * folded
    return Reduced(fates=fates, steps=tuple(_rounded(step) for step in exact), exact=tuple(exact))


def _rounded(step: ExactStep) -> Step:
    """Reads from the first element of the state that matters on."""
    used = np.flatnonzero((step.weight != 0).any(axis=1))
    start = int(used[0]) if used.size else step.weight.shape[0] - 1
    return Step(start=start, weight=step.weight[start:].astype(np.float32), bias=step.bias.astype(np.float32))
