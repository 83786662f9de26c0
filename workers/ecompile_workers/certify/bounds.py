"""Bounds on what every layer computes over boxes of inputs: intervals and CROWN, in float64 with outward rounding.

CROWN: Zhang et al., Efficient Neural Network Robustness Certification with General Activation Functions, NeurIPS 2018,
with adaptive lower slopes. Rounding is absorbed into the constant of each linear bound: a coefficient that is off by e
moves the bound by at most |e| times the largest value it is applied to, which is known from the layers before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .network import TINY, Chain, Layer, Values, gamma


@dataclass(frozen=True, kw_only=True)
class Interval:
    """lower <= z <= upper over a box; [boxes, units] each."""

    lower: Values
    upper: Values

    @property
    def largest(self) -> Values:
        return np.maximum(np.abs(self.lower), np.abs(self.upper))

    def relu(self) -> Interval:
        return Interval(lower=np.maximum(self.lower, 0), upper=np.maximum(self.upper, 0))

    def meet(self, other: Interval) -> Interval:
        return Interval(lower=np.maximum(self.lower, other.lower), upper=np.minimum(self.upper, other.upper))


def propagated(layer: Layer, a: Interval) -> Interval:
    """Interval bound of one layer for inputs [boxes, in]."""
    positive, negative = np.maximum(layer.weight, 0), np.minimum(layer.weight, 0)
    error = _error(layer, a)
    return Interval(
        lower=a.lower @ positive + a.upper @ negative + layer.bias - error,
        upper=a.upper @ positive + a.lower @ negative + layer.bias + error,
    )


def _error(layer: Layer, a: Interval) -> Values:
    """[boxes, out]: uncertainty of the layer's numbers, and rounding of evaluating it twice over."""
    size = np.abs(layer.weight)
    rounded = (a.largest @ size + np.abs(layer.bias)) * (2 * gamma(size.shape[0]))
    return np.asarray(a.largest @ layer.weight_radius + layer.bias_radius + rounded + TINY)


def bounds(chain: Chain, lower: Values, upper: Values) -> list[Interval]:
    """Per layer, bounds on its result before any ReLU for boxes `lower`, `upper` [boxes, inputs]."""
    box = Interval(lower=lower, upper=upper)
    inputs, found = [box], list[Interval]()
    for number, layer in enumerate(chain.layers):
        z = propagated(layer, inputs[-1])
        if number > 0:
            z = z.meet(_crown(chain.layers[: number + 1], found, inputs))
        found.append(z)
        inputs.append(z.relu())
    return found


@dataclass(frozen=True, kw_only=True)
class _Relaxation:
    """relu(z) <= slope z + intercept and relu(z) >= floor z on an interval; [boxes, units] each."""

    slope: Values
    intercept: Values
    floor: Values


def _relax(z: Interval) -> _Relaxation:
    """Any slope in [0, 1] is sound with an intercept that covers both ends, relu being convex."""
    unstable = (z.lower < 0) & (z.upper > 0)
    width = np.where(unstable, z.upper - z.lower, 1.0)
    slope = np.where(unstable, np.clip(z.upper / width, 0.0, 1.0), (z.lower >= 0) * 1.0)
    intercept = np.maximum(-slope * z.lower, z.upper - slope * z.upper) * (1 + gamma(2)) + TINY
    floor = np.where(unstable, (z.upper > -z.lower) * 1.0, slope)
    return _Relaxation(slope=slope, intercept=np.where(unstable, intercept, 0.0), floor=floor)


def _crown(layers: Sequence[Layer], known: Sequence[Interval], inputs: Sequence[Interval]) -> Interval:
    """Bounds of the last of `layers`, `known` being those of the ones before, `inputs[k]` what layer k reads."""
    last = layers[-1]
    boxes, units = known[0].lower.shape[0], last.bias.size
    # Maximise +z and -z: coefficients [boxes, 2 * units, unit of the layer before], constants [boxes, 2 * units].
    weight = np.concatenate([last.weight.T, -last.weight.T])
    line = np.broadcast_to(weight, (boxes, *weight.shape))
    error = _error(last, inputs[len(layers) - 1])
    constant = np.concatenate([last.bias + error, error - last.bias], axis=1)
    for number in range(len(layers) - 2, -1, -1):
        line, constant = _through_relu(line, constant, known[number])
        line, constant = _through_layer(line, constant, layers[number], inputs[number])
    best = _maximum(line, constant, inputs[0])
    return Interval(lower=-best[:, units:], upper=best[:, :units])


def _dot(line: Values, vector: Values) -> Values:
    """[boxes, rows, units] by [boxes, units]."""
    return np.asarray((line @ vector[:, :, None])[..., 0])


def _through_relu(line: Values, constant: Values, z: Interval) -> tuple[Values, Values]:
    """A bound over activations as one over what goes into the ReLUs."""
    relax = _relax(z)
    positive, negative = np.maximum(line, 0), np.minimum(line, 0)
    covered = _dot(positive, relax.intercept)
    rounding = _dot(np.abs(line), z.largest * gamma(2) + relax.intercept * gamma(line.shape[-1]))
    found = positive * relax.slope[:, None] + negative * relax.floor[:, None]
    return found, _sum(constant, covered, rounding)


def _through_layer(line: Values, constant: Values, layer: Layer, a: Interval) -> tuple[Values, Values]:
    """A bound over a layer's result as one over its inputs."""
    boxes, rows, units = line.shape
    moved = (line.reshape(boxes * rows, units) @ layer.weight.T).reshape(boxes, rows, -1)
    error = _dot(np.abs(line), _error(layer, a) * (1 + gamma(units)) + _size(layer, a) * gamma(units))
    return moved, _sum(constant, line @ layer.bias, error)


def _size(layer: Layer, a: Interval) -> Values:
    return np.asarray(a.largest @ np.abs(layer.weight) + np.abs(layer.bias))


def _maximum(line: Values, constant: Values, box: Interval) -> Values:
    """Largest value over the box."""
    best = _dot(np.maximum(line, 0), box.upper) + _dot(np.minimum(line, 0), box.lower)
    return _sum(constant, best, _dot(np.abs(line), box.largest) * (2 * gamma(line.shape[-1])))


def _sum(*terms: Values) -> Values:
    """Rounded up."""
    total = terms[0]
    size = np.abs(terms[0])
    for term in terms[1:]:
        total = total + term
        size = size + np.abs(term)
    return np.asarray(total + size * gamma(len(terms)) + TINY)
