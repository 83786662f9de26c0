"""How far float32 code can be from the real function it stands for, anywhere in a box.

Standard model of floating point (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 2.2 and
lemma 3.1): a sum of products in any order, with or without fused multiply-adds, errs by at most gamma_n times the sum
of magnitudes. Local errors reach the output through the Jacobian, which is enclosed: a ReLU passes a difference with a
factor in [0, 1], and with exactly 0 or 1 where both arguments are on one side of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bounds import Interval
from .network import TINY, Chain, Values, gamma, interval_product
from .reduction import Fate, Reduced

FLOAT32_UNIT = 2.0**-24
FLOAT32_SMALLEST = 2.0**-126
"""Smallest normal number: what a product may lose where denormal numbers are flushed to zero."""
FLOAT32_LARGEST = 2.0**127


def gamma32(count: int) -> float:
    """Relative error of `count` float32 roundings; infinite where there are too many for the bound to hold."""
    product = count * FLOAT32_UNIT
    return product / (1 - product) * (1 + 1e-12) if product < 0.5 else float("inf")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """z = state[start:] W + b, |W - weight| <= weight_radius, evaluated in float32 with deviating numbers.

    `*_deviation`: how far the numbers used may be from W and b; `*_size`: the magnitudes that are summed.
    """

    start: int
    weight: Values
    weight_radius: Values
    weight_deviation: Values
    bias_deviation: Values
    weight_size: Values
    bias_size: Values
    roundings: int
    lower: Values
    """Bounds of the exact z over the box."""
    upper: Values


def source_stages(chain: Chain, z: Sequence[Interval], box: int) -> tuple[Stage, ...]:
    """The network as it was given; every layer reads the one before only."""
    stages = []
    start, size = 0, chain.inputs
    for layer, interval in zip(chain.layers, z, strict=True):
        zero = np.zeros_like(layer.weight)
        stages.append(
            Stage(
                start=start,
                weight=layer.weight,
                weight_radius=layer.weight_radius,
                weight_deviation=zero,
                bias_deviation=np.zeros_like(layer.bias),
                weight_size=layer.weight_size,
                bias_size=layer.bias_size,
                roundings=layer.roundings,
                lower=interval.lower[box],
                upper=interval.upper[box],
            )
        )
        start, size = size, size + layer.bias.size
    return tuple(stages)


def reduced_stages(reduced: Reduced, z: Sequence[Interval], box: int) -> tuple[Stage, ...]:
    """The reduced network; its numbers are rounded to float32."""
    kept = [(fate == Fate.ON) | (fate == Fate.FREE) for fate in reduced.fates]
    computed = [(number, each) for number, each in enumerate(kept) if each.any()]
    computed.append((len(kept), np.ones(z[-1].lower.shape[1], dtype=bool)))
    stages = []
    for step, exact, (number, chosen) in zip(reduced.steps, reduced.exact, computed, strict=True):
        used = np.zeros_like(exact.weight)
        used[step.start :] = step.weight
        bias = step.bias.astype(np.float64)
        stages.append(
            Stage(
                start=0,
                weight=exact.weight,
                weight_radius=exact.weight_radius,
                weight_deviation=np.abs(used - exact.weight) * (1 + gamma(1)) + exact.weight_radius,
                bias_deviation=np.abs(bias - exact.bias) * (1 + gamma(1)) + exact.bias_radius,
                weight_size=np.abs(used),
                bias_size=np.abs(bias),
                roundings=step.weight.shape[0] + 2,
                lower=z[number].lower[box, chosen],
                upper=z[number].upper[box, chosen],
            )
        )
    return tuple(stages)


def evaluation_error(stages: Sequence[Stage], largest_input: Values) -> Values:
    """|float32 evaluation - exact| of each output, for inputs of magnitude up to `largest_input` [inputs]."""
    local, crude = _local_errors(stages, largest_input)
    total = local[-1]
    last = stages[-1]
    size = largest_input.size + sum(stage.lower.size for stage in stages[:-1])
    adjoint, radius = np.zeros((size, last.lower.size)), np.zeros((size, last.lower.size))
    _add_adjoint(adjoint, radius, last, np.eye(last.lower.size), np.zeros((last.lower.size,) * 2), size)
    stop = size
    for stage, error, spread in zip(stages[-2::-1], local[-2::-1], crude[-2::-1], strict=True):
        start = stop - stage.lower.size
        centre, width = _through_relu(adjoint[start:stop], radius[start:stop], stage, spread)
        total = total + error @ (np.abs(centre) + width)
        _add_adjoint(adjoint, radius, stage, centre, width, start)
        stop = start
    return np.asarray(total * (1 + gamma(size)) + TINY)


def _local_errors(stages: Sequence[Stage], largest_input: Values) -> tuple[list[Values], list[Values]]:
    """Per stage, the error made in it, and a crude bound of the error of its result."""
    largest, error = largest_input, np.zeros_like(largest_input)
    locals_, crudes = [], []
    for stage in stages:
        stop = stage.start + stage.weight.shape[0]
        reached = (largest + error)[stage.start : stop]
        summed = reached @ stage.weight_size + stage.bias_size
        lost = stage.roundings * 4 * FLOAT32_SMALLEST * (1 + stage.weight_size.max() + reached.max())
        made = reached @ stage.weight_deviation + stage.bias_deviation + gamma32(stage.roundings) * summed + lost
        made = np.where(summed < FLOAT32_LARGEST, made * (1 + gamma(stage.weight.shape[0])), np.inf)
        inherited = error[stage.start : stop] @ (np.abs(stage.weight) + stage.weight_radius)
        crude = (inherited + made) * (1 + gamma(stage.weight.shape[0]))
        locals_.append(made)
        crudes.append(crude)
        largest = np.concatenate([largest, np.maximum(stage.upper, 0)])
        error = np.concatenate([error, crude])
    return locals_, crudes


def _through_relu(centre: Values, radius: Values, stage: Stage, error: Values) -> tuple[Values, Values]:
    """Adjoint [units, outputs] before the ReLU: times 0, 1 or anything between."""
    on, off = (stage.lower >= error)[:, None], (stage.upper <= -error)[:, None]
    lower, upper = np.minimum(centre - radius, 0), np.maximum(centre + radius, 0)
    middle, width = (lower + upper) / 2, (upper - lower) / 2
    width = width * (1 + gamma(4)) + (np.abs(lower) + np.abs(upper)) * gamma(2)
    return np.where(on, centre, np.where(off, 0.0, middle)), np.where(on, radius, np.where(off, 0.0, width))


def _add_adjoint(adjoint: Values, radius: Values, stage: Stage, centre: Values, width: Values, stop: int) -> None:
    """What the stage's inputs get from its outputs' adjoint [units, outputs]."""
    more, spread = interval_product(stage.weight, stage.weight_radius, centre, width)
    end = stage.start + stage.weight.shape[0]
    assert end <= stop
    adjoint[stage.start : end] += more
    radius[stage.start : end] += spread + np.abs(adjoint[stage.start : end]) * gamma(2)
