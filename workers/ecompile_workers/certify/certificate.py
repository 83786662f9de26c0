"""The certificate of a guard tree as JSON, part of the bundle. `checker.py` says what it claims, and reads it itself.

Boxes and thresholds are float32 numbers, written so that they read back exactly; weights are little-endian float32 in
base64. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import json
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from ..data.store import digest_of
from ..ir import serialize
from ..ir.graph import Array, Graph
from .network import read_chain
from .reduction import Step
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


def read_tree(graph: Graph, certificate: bytes) -> RegionTree:
    """The guard tree of a certificate that the checker has accepted for `graph`: what its code is printed from."""
    document = json.loads(certificate)
    return RegionTree(
        lower=_single(document["box"]["lower"]),
        upper=_single(document["box"]["upper"]),
        nodes=tuple(_read_node(entry) for entry in document["tree"]),
        regions=tuple(_read_region(entry) for entry in document["regions"]),
        last_relu=read_chain(graph).last_relu,
    )


def _read_node(entry: dict[str, Any]) -> TreeNode:
    if "region" in entry:
        return Hit(region=entry["region"])
    if "miss" in entry:
        return Miss()
    return Split(**entry)


def _read_region(entry: dict[str, Any]) -> Region:
    return Region(
        lower=_single(entry["box"]["lower"]),
        upper=_single(entry["box"]["upper"]),
        fates=tuple(np.array(list(units)) for units in entry["units"]),
        steps=tuple(
            Step(start=step["start"], weight=_read_numbers(step["weight"]), bias=_read_numbers(step["bias"]))
            for step in entry["steps"]
        ),
        real_bound=tuple(entry["realBound"]),
        bound=tuple(entry["bound"]),
    )


def _read_numbers(entry: dict[str, Any]) -> Array:
    return np.frombuffer(base64.b64decode(entry["data"]), dtype="<f4").reshape(entry["shape"]).astype(np.float32)


def _single(values: list[float]) -> Array:
    return np.array(values, dtype=np.float32)


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
