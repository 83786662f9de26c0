"""Whether a certificate's claims are true, by the code that makes certificates: the checker shares nothing with it.

For mutated certificates that the checker accepts: a second, independent proof that what they claim still holds.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from ecompile_workers.certify.bounds import bounds
from ecompile_workers.certify.network import read_chain
from ecompile_workers.certify.reduction import Reduced, Step, reduce
from ecompile_workers.certify.rounding import evaluation_error, reduced_stages, source_stages
from ecompile_workers.ir.graph import Graph


def is_true(graph: Graph, document: dict[str, Any]) -> bool:
    """Every claim of every region, and that the tree sends to a region nothing but its box."""
    return _routes_hold(document) and all(_region_holds(graph, region) for region in document["regions"])


def _numbers(entry: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(entry["data"]), dtype="<f4").reshape(entry["shape"])


def _region_holds(graph: Graph, entry: dict[str, Any]) -> bool:
    chain = read_chain(graph)
    lower, upper = np.array(entry["box"]["lower"], dtype=float), np.array(entry["box"]["upper"], dtype=float)
    z = bounds(chain, lower[None], upper[None])
    fates = tuple(np.array(list(units)) for units in entry["units"])
    for units, interval in zip(fates, z[:-1], strict=True):
        if (interval.upper[0][units == "-"] > 0).any() or (interval.lower[0][np.isin(units, ["+", "="])] < 0).any():
            return False
    steps = tuple(
        Step(start=step["start"], weight=_numbers(step["weight"]), bias=_numbers(step["bias"]))
        for step in entry["steps"]
    )
    reduced = Reduced(fates=fates, steps=steps, exact=reduce(chain, fates).exact)
    largest = np.maximum(np.abs(lower), np.abs(upper))
    ours = evaluation_error(reduced_stages(reduced, z, 0), largest)
    both = ours + evaluation_error(source_stages(chain, z, 0), largest)
    return bool((ours <= entry["realBound"]).all() and (both <= entry["bound"]).all())


def _routes_hold(document: dict[str, Any]) -> bool:
    """Walks down with half-open boxes as constraints on each feature, and compares with the region's box."""
    nodes, root = document["tree"], document["box"]
    waiting = [(0, list(root["lower"]), list(root["upper"]))]
    reached = 0
    while waiting:
        index, lower, upper = waiting.pop()
        node = nodes[index]
        reached += 1
        if reached > len(nodes):
            return False
        if "region" in node:
            box = document["regions"][node["region"]]["box"]
            if any(a < b for a, b in zip(lower, box["lower"], strict=True)):
                return False
            if any(a > b for a, b in zip(upper, box["upper"], strict=True)):
                return False
        elif "miss" not in node:
            feature, threshold = node["feature"], node["threshold"]
            left, right = list(upper), list(lower)
            left[feature], right[feature] = min(threshold, upper[feature]), max(threshold, lower[feature])
            waiting += [(node["left"], lower, left), (node["right"], right, upper)]
    return True
