"""`explain=true`: for each segment, who answered and the terms of the confidence in the module for this input. Pure.

    confidence = 0.4 stability + 0.3 (1 - ood) + 0.3 recentAccuracy

with the weights of spec.serving.policy; policy.py says what the terms are. A term that is not known is null. `ood` is
told from the distance to the calibration sample; where the plan has none, it is 0 inside the module's guard and 1 - 1/z
outside, where z is the largest distance of a feature from the middle of the guard in half-widths. Of several rows, the
largest.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import orjson
from ecompile_crds.hybridmodel import ServingPolicy
from ecompile_crds.plan import Plan

from .bridge import Outcome, SegmentState, Served
from .modules import LoadedModule
from .neural import Rows
from .policy import confidence, out_of_distribution

DIGITS: Final = 6


def outside_guard(module: LoadedModule, x: Rows) -> float:
    """How far rows [rows, features] are outside the module's guard: 0 inside, towards 1 far away, 1 for NaN."""
    middle = (module.upper.astype(np.float64) + module.lower) / 2
    half = np.maximum((module.upper.astype(np.float64) - module.lower) / 2, 1e-12)
    distance = float(np.max(np.abs(x - middle) / half))
    return 0.0 if distance <= 1.0 else 1.0 - 1.0 / distance if distance == distance else 1.0


def explain(outcome: Outcome, x: Rows, plan: Plan) -> str:
    """JSON: a list with one object per segment. `x` are the request's rows; what reaches later segments is computed by
    the network, off the answer."""
    described = []
    for segment, how in zip(outcome.state.segments, outcome.served, strict=True):
        described.append(_segment(segment, how, x, plan, outcome.state.policy))
        if segment.index + 1 < len(outcome.served):
            x = segment.neural(x)
    return orjson.dumps(described).decode()


def _segment(segment: SegmentState, how: Served, x: Rows, plan: Plan, policy: ServingPolicy) -> dict[str, Any]:
    found: dict[str, Any] = {
        "segment": segment.index,
        "served": how.value,
        "mode": segment.mode.value,
        "weight": segment.weight,
        "compareProbability": segment.compare,
        "policy": policy.name.value,
        "module": None,
    }
    alert = segment.watch.alert
    if alert is not None:
        found["alert"] = f"{alert.kind.value}: {alert.detail}"
    module = segment.module
    if module is None:
        return found
    stability = plan.segments[segment.index].stability
    ood, accuracy = outside_guard(module, x), segment.watch.recent_accuracy
    distance, near = segment.distance, {}
    if distance is not None:
        found_distance = distance(np.ascontiguousarray(x, dtype=np.float32))
        ood = out_of_distribution(found_distance, distance.threshold)
        near = {"distance": _told(found_distance), "distanceThreshold": _told(distance.threshold)}
        if module.calibrated is not None:
            near["riskThreshold"] = _told(module.calibrated.threshold(policy.max_risk))
    return (
        found
        | {
            "module": module.name,
            "bundleDigest": module.digest,
            "evidence": module.evidence,
            "confidence": round(confidence(policy.weights, stability=stability, ood=ood, accuracy=accuracy), DIGITS),
            "weights": policy.weights.model_dump(),
            "stability": stability,
            "ood": round(ood, DIGITS),
            "recentAccuracy": accuracy,
        }
        | near
    )


def _told(value: float) -> float | str:
    """JSON has no infinity."""
    return round(value, DIGITS) if math.isfinite(value) else "infinite"
