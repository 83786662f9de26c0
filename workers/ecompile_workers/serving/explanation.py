"""`explain=true`: for each segment, who answered and the terms of the confidence in the module for this input. Pure.

    confidence = 0.4 stability + 0.3 (1 - ood) + 0.3 recentAccuracy

A term that is not known (no stability was measured, nothing was compared yet) is null, and its weight goes to the
others. `ood` is 0 inside the module's guard and 1 - 1/z outside, where z is the largest distance of a feature from the
middle of the guard in half-widths; of several rows, the largest.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
from ecompile_crds.plan import Plan

from .bridge import Outcome, SegmentState, Served
from .modules import LoadedModule
from .neural import Rows

STABILITY_WEIGHT: Final = 0.4
OOD_WEIGHT: Final = 0.3
ACCURACY_WEIGHT: Final = 0.3
DIGITS: Final = 6


def out_of_distribution(module: LoadedModule, x: Rows) -> float:
    """How far rows [rows, features] are outside the module's guard: 0 inside, towards 1 far away, 1 for NaN."""
    middle = (module.upper.astype(np.float64) + module.lower) / 2
    half = np.maximum((module.upper.astype(np.float64) - module.lower) / 2, 1e-12)
    distance = float(np.max(np.abs(x - middle) / half))
    return 0.0 if distance <= 1.0 else 1.0 - 1.0 / distance if distance == distance else 1.0


def confidence(stability: float | None, ood: float, recent_accuracy: float | None) -> float:
    """The weighted mean of the terms that are known, in [0, 1]."""
    terms = [(OOD_WEIGHT, 1.0 - ood)]
    if stability is not None:
        terms.append((STABILITY_WEIGHT, min(max(stability, 0.0), 1.0)))
    if recent_accuracy is not None:
        terms.append((ACCURACY_WEIGHT, recent_accuracy))
    return sum(weight * term for weight, term in terms) / sum(weight for weight, _ in terms)


def explain(outcome: Outcome, x: Rows, plan: Plan) -> str:
    """JSON: a list with one object per segment. `x` are the request's rows; what reaches later segments is computed by
    the network, off the answer."""
    described = []
    for segment, how in zip(outcome.state.segments, outcome.served, strict=True):
        described.append(_segment(segment, how, x, plan))
        if segment.index + 1 < len(outcome.served):
            x = segment.neural(x)
    return orjson.dumps(described).decode()


def _segment(segment: SegmentState, how: Served, x: Rows, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "segment": segment.index,
        "served": how.value,
        "mode": segment.mode.value,
        "weight": segment.weight,
        "compareProbability": segment.compare,
        "module": None,
    }
    alert = segment.watch.alert
    if alert is not None:
        found["alert"] = f"{alert.kind.value}: {alert.detail}"
    module = segment.module
    if module is None:
        return found
    stability = plan.segments[segment.index].stability
    ood, accuracy = out_of_distribution(module, x), segment.watch.recent_accuracy
    return found | {
        "module": module.name,
        "bundleDigest": module.digest,
        "evidence": module.evidence,
        "confidence": round(confidence(stability, ood, accuracy), DIGITS),
        "stability": stability,
        "ood": round(ood, DIGITS),
        "recentAccuracy": accuracy,
    }
