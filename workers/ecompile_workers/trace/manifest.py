"""The `.nfrsg` file: what stability analysis found, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grouping import DBSCAN_EPS, DBSCAN_MIN_SAMPLES, MERGE_COVERAGE, Method, grouped
from .stability import THRESHOLD, LayerStability

SCHEMA_VERSION = 2
TOP_UNITS = 50
NOTE = "Stability is reported and used to rank. It proves nothing about inputs not seen."
DIGITS = 6


def mean_stability(layers: Sequence[LayerStability]) -> float | None:
    """Over all units that are not dead; None where there are none."""
    alive = [layer.stability[~layer.dead] for layer in layers]
    scores = np.concatenate(alive) if alive else np.empty(0)
    return float(scores.mean()) if len(scores) else None


def describe(
    layers: Sequence[LayerStability], *, model_digest: str, method: Method = Method.DBSCAN, seed: int = 0
) -> dict[str, Any]:
    """Summary, a line per layer, groups, and the top 50 units by stability times impact."""
    owner = np.concatenate([np.full(len(x.units), i) for i, x in enumerate(layers)] or [np.empty(0, np.int64)])
    stability, impact, score, dead, units = (
        np.concatenate([getattr(layer, name) for layer in layers] or [np.empty(0)])
        for name in ("stability", "impact", "score", "dead", "units")
    )
    alive = np.flatnonzero(~dead.astype(bool))
    groups = [alive[g] for g in grouped(stability[alive], impact[alive], owner[alive], method=method, seed=seed)]
    top = np.lexsort((np.arange(len(score)), -score))[:TOP_UNITS]
    return {
        "schemaVersion": SCHEMA_VERSION,
        "modelDigest": model_digest,
        "threshold": THRESHOLD,
        "units": len(stability),
        "stable": int((stability[alive] > THRESHOLD).sum()),
        "dead": int(dead.sum()),
        "meanStability": mean_stability(layers),
        "layers": [_layer(layer) for layer in layers],
        "grouping": _settings(method, seed),
        "groups": [_group(group, layers, owner, units, stability, impact) for group in groups],
        "top": [
            {
                "layer": layers[owner[i]].layer,
                "operator": layers[owner[i]].operator,
                "unit": int(units[i]),
                "stability": _round(stability[i]),
                "impact": _round(impact[i]),
                "score": _round(score[i]),
            }
            for i in top
        ],
        "note": NOTE,
    }


def manifest(
    layers: Sequence[LayerStability], *, model_digest: str, method: Method = Method.DBSCAN, seed: int = 0
) -> bytes:
    """The file's content; the same for the same figures."""
    found = describe(layers, model_digest=model_digest, method=method, seed=seed)
    return json.dumps(found, sort_keys=True, indent=1).encode()


def ranges(indices: NDArray[np.int64]) -> str:
    """Ascending indices as text: "0-4,7,9-10"."""
    if not len(indices):
        return ""
    parts = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return ",".join(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _settings(method: Method, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"method": method, "mergeCoverage": MERGE_COVERAGE}
    if method is Method.DBSCAN:
        return {**found, "eps": DBSCAN_EPS, "minSamples": DBSCAN_MIN_SAMPLES}
    return {**found, "seed": seed}


def _layer(layer: LayerStability) -> dict[str, Any]:
    alive = layer.stability[~layer.dead]
    return {
        "layer": layer.layer,
        "operator": layer.operator,
        "units": len(layer.units),
        "samples": layer.samples,
        "dead": int(layer.dead.sum()),
        "stable": int((alive > THRESHOLD).sum()),
        "medianStability": _round(np.median(alive)) if len(alive) else None,
    }


def _group(
    group: NDArray[np.int64],
    layers: Sequence[LayerStability],
    owner: NDArray[np.int64],
    units: NDArray[np.int64],
    stability: NDArray[np.float64],
    impact: NDArray[np.float64],
) -> dict[str, Any]:
    return {
        "units": len(group),
        "stability": [_round(stability[group].min()), _round(stability[group].max())],
        "impact": [_round(impact[group].min()), _round(impact[group].max())],
        "members": {
            layers[i].layer: ranges(np.sort(units[group[owner[group] == i]]).astype(np.int64))
            for i in np.unique(owner[group])
        },
    }


def _round(value: float | np.floating[Any]) -> float:
    """Six significant digits: the last ones differ between machines."""
    return float(f"{float(value):.{DIGITS}g}")
