"""spec.serving.policy: which inputs a module may answer, and how it changes a route.

The guard is in the generated code and always holds. On top of it, `conformal` asks whether the input is near enough to
the calibration sample for the risk to be controlled, and `confidence-first` whether the confidence is high enough; the
distance is computed in C, once per segment. A module whose calibration shows no more violations than the risk allows
needs no distance at all.

    confidence = alpha S + beta (1 - OOD) + gamma recentAccuracy

A term that is not known (no stability was measured, nothing was compared yet) is left out, and its weight goes to the
others. OOD is 0 up to the distance that 95 % of the calibration sample keep, and 1 - threshold / distance beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from ecompile_crds.hybridmodel import ConfidenceWeights, Policy, ServingPolicy
from ecompile_crds.routing import RouteMode

from ..codegen._native import score
from ..equivalence.risk import CalibratedRisk
from ..trace.reference import Reference, Rows

WIDTH: Final = 8
"""As in native.c."""

Admit = Callable[[Rows], bool]
"""Whether the module may answer these rows."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a segment is served once the policy has had its say."""

    mode: RouteMode
    weight: float
    compare: float
    by_policy: bool = False
    """The network answers because the policy says so."""


def apply(policy: ServingPolicy, mode: RouteMode, *, weight: float, compare: float) -> Route:
    """The route of a segment that has a module."""
    if mode is RouteMode.NEURAL:
        return Route(mode, 0.0, 0.0)
    match policy.name:
        case Policy.NEURAL_ONLY:
            return Route(RouteMode.NEURAL, 0.0, 0.0, by_policy=True)
        case Policy.SHADOW:
            return Route(RouteMode.SHADOW, 0.0, compare, by_policy=mode is not RouteMode.SHADOW)
        case Policy.COMPILED_FIRST if mode is RouteMode.CANARY:
            return Route(mode, 1.0, compare)
        case Policy.CONFORMAL | Policy.GUARD_ONLY | Policy.CONFIDENCE_FIRST | Policy.COMPILED_FIRST:
            return Route(mode, weight if mode is RouteMode.CANARY else 0.0, compare)


class Distance:
    """Distances to the calibration sample, in C and float32; `Reference.score` is the same in float64."""

    __slots__ = ("_packed", "threshold")

    def __init__(self, reference: Reference) -> None:
        self._packed = packed(reference)
        self.threshold = reference.threshold

    def __call__(self, rows: Rows) -> float:
        """The largest of the rows [rows, features], C-contiguous."""
        return score(self._packed, rows)


def packed(reference: Reference) -> Rows:
    """The reference as native.c reads it."""
    rank, features = reference.directions.shape
    width = max(WIDTH, -(-rank // WIDTH) * WIDTH)
    directions = np.zeros((features, width), dtype=np.float32)
    directions[:, :rank] = reference.directions.T
    precisions = np.zeros(width, dtype=np.float32)
    precisions[:rank] = reference.precisions
    head = np.array([features, rank, width, reference.rest], dtype=np.float32)
    parts = (head, precisions, reference.mean, 1.0 / reference.scale, directions.reshape(-1))
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])


def out_of_distribution(distance: float, threshold: float) -> float:
    """0 up to the threshold, towards 1 far away."""
    if distance <= threshold:
        return 0.0
    return 1.0 - threshold / distance if math.isfinite(distance) else 1.0


def confidence(
    weights: ConfidenceWeights, *, stability: float | None, ood: float | None, accuracy: float | None
) -> float:
    """The weighted mean of the terms that are known, in [0, 1]; 0 where none is."""
    terms = (
        (weights.stability, stability),
        (weights.distribution, None if ood is None else 1.0 - ood),
        (weights.accuracy, accuracy),
    )
    known = [(weight, min(max(term, 0.0), 1.0)) for weight, term in terms if term is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * term for weight, term in known) / total if total > 0 else 0.0


def admission(
    policy: ServingPolicy,
    *,
    risk: CalibratedRisk | None,
    distance: Distance | None,
    stability: float | None,
    accuracy: Callable[[], float | None],
) -> Admit | None:
    """What is asked besides the guard; None where nothing is."""
    if policy.name is Policy.CONFORMAL and risk is not None and distance is not None:
        limit = risk.threshold(policy.max_risk)
        if limit == math.inf:
            return None
        return lambda rows: distance(rows) <= limit
    if policy.name is Policy.CONFIDENCE_FIRST:
        weights, least = policy.weights, policy.min_confidence

        def sure(rows: Rows) -> bool:
            ood = out_of_distribution(distance(rows), distance.threshold) if distance is not None else None
            return confidence(weights, stability=stability, ood=ood, accuracy=accuracy()) >= least

        return sure
    return None
