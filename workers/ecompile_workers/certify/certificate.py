"""The certificate of a guard tree as JSON, part of the bundle. `checker.py` says what it claims, and reads it itself.

Boxes and thresholds are float32 numbers, written so that they read back exactly; weights are little-endian float32 in
base64. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import json
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from ..data.store import digest_of
from ..ir import serialize
from ..ir.graph import Array, Graph
from .regions import Hit, Miss, Region, RegionTree, Split, TreeNode

FILE = "certificate.json"
"""Its name in the bundle."""
SCHEMA_VERSION = 1


def write_certificate(graph: Graph, tree: RegionTree) -> bytes:
    """What is claimed of `tree` as a replacement of `graph`."""
    document = {
        "schemaVersion": SCHEMA_VERSION,
        "graph": graph_digest(graph),
        "box": _box(tree.lower, tree.upper),
        "tree": [_node(node) for node in tree.nodes],
        "regions": [_region(region) for region in tree.regions],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def graph_digest(graph: Graph) -> str:
    """Digest of a graph with its weights."""
    text, weights = serialize.dump(graph)
    return digest_of(text + bytes(1) + weights)


def box_digest(tree: RegionTree) -> str:
    """Digest of the boxes that a proof holds on."""
    boxes = [np.concatenate([region.lower, region.upper]) for region in tree.regions]
    return digest_of(np.stack(boxes).astype("<f4").tobytes())


def _box(lower: Array, upper: Array) -> dict[str, list[float]]:
    return {"lower": [float(v) for v in lower], "upper": [float(v) for v in upper]}


def _node(node: TreeNode) -> dict[str, object]:
    match node:
        case Split():
            return {
                "feature": node.feature,
                "threshold": node.threshold,
                "left": node.left,
                "right": node.right,
            }
        case Hit():
            return {"region": node.region}
        case Miss():
            return {"miss": True}
        case _:
            assert_never(node)


def _region(region: Region) -> dict[str, object]:
    return {
        "box": _box(region.lower, region.upper),
        "units": ["".join(fates.tolist()) for fates in region.fates],
        "steps": [
            {"start": step.start, "weight": _numbers(step.weight), "bias": _numbers(step.bias)} for step in region.steps
        ],
        "realBound": list(region.real_bound),
        "bound": list(region.bound),
    }


def _numbers(values: NDArray[np.float32]) -> dict[str, object]:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return {"shape": list(values.shape), "data": base64.b64encode(content).decode()}
