"""Seeded corruptions of a certificate, or of the network that it is about."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ecompile_workers.ir.graph import Graph
from numpy.random import Generator

Document = dict[str, Any]


def _region(document: Document, rng: Generator) -> dict[str, Any]:
    return dict.__getitem__(document, "regions")[rng.integers(len(document["regions"]))]


def _nudged(value: float, rng: Generator) -> float:
    """The next float32, or one somewhere near."""
    near = np.float32(value)
    up = np.float32(np.inf if rng.random() < 0.5 else -np.inf)
    if rng.random() < 0.5:
        return float(np.nextafter(near, up))
    return float(np.float32(near + rng.normal() * 10.0 ** rng.uniform(-6, 0)))


def weight_bit(document: Document, rng: Generator) -> None:
    """Flip a bit of a weight or bias."""
    step = rng.choice(_region(document, rng)["steps"])
    entry = step[rng.choice(["weight", "bias"])]
    words = np.frombuffer(base64.b64decode(entry["data"]), dtype="<u4").copy()
    words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
    entry["data"] = base64.b64encode(words.tobytes()).decode()


def weights_exchanged(document: Document, rng: Generator) -> None:
    """The steps of a region are those of another one."""
    document["regions"][0]["steps"], document["regions"][1]["steps"] = (
        document["regions"][1]["steps"],
        document["regions"][0]["steps"],
    )


def box_side(document: Document, rng: Generator) -> None:
    """Move one side of a region's box."""
    side = _region(document, rng)["box"][rng.choice(["lower", "upper"])]
    index = rng.integers(len(side))
    side[index] = _nudged(side[index], rng)


def root_side(document: Document, rng: Generator) -> None:
    """Move one side of the tree's box."""
    side = document["box"][rng.choice(["lower", "upper"])]
    index = rng.integers(len(side))
    side[index] = _nudged(side[index], rng)


def box_and_root(document: Document, rng: Generator) -> None:
    """Widen the root and all boxes that touch it, consistently: the tree holds, the claims may not."""
    feature = rng.integers(len(document["box"]["upper"]))
    old = document["box"]["upper"][feature]
    new = float(np.float32(old + 10.0 ** rng.uniform(-1, 2)))
    for box in (document["box"], *(region["box"] for region in document["regions"])):
        if box["upper"][feature] == old:
            box["upper"][feature] = new


def threshold(document: Document, rng: Generator) -> None:
    """Move a split."""
    node = rng.choice([n for n in document["tree"] if "threshold" in n])
    node["threshold"] = _nudged(node["threshold"], rng)


def split_children(document: Document, rng: Generator) -> None:
    """Exchange the children of a split, or let one be another node."""
    node = rng.choice([n for n in document["tree"] if "threshold" in n])
    if rng.random() < 0.5:
        node["left"], node["right"] = node["right"], node["left"]
    else:
        node[rng.choice(["left", "right"])] = int(rng.integers(-1, len(document["tree"]) + 1))


def split_feature(document: Document, rng: Generator) -> None:
    """Split another feature."""
    node = rng.choice([n for n in document["tree"] if "threshold" in n])
    node["feature"] = int((node["feature"] + 1 + rng.integers(2)) % 3)


def end_of_tree(document: Document, rng: Generator) -> None:
    """An end becomes another region."""
    index = rng.choice([i for i, n in enumerate(document["tree"]) if "threshold" not in n])
    old = document["tree"][index].get("region", -1)
    others = [r for r in range(len(document["regions"])) if r != old]
    document["tree"][index] = {"region": int(rng.choice(others))}


def unit_flag(document: Document, rng: Generator) -> None:
    """Another fate for one unit."""
    units = _region(document, rng)["units"]
    layer = rng.integers(len(units))
    unit = rng.integers(len(units[layer]))
    other = rng.choice([c for c in "-+=." if c != units[layer][unit]])
    units[layer] = units[layer][:unit] + str(other) + units[layer][unit + 1 :]


def bound(document: Document, rng: Generator) -> None:
    """A smaller bound."""
    region = _region(document, rng)
    values = region[rng.choice(["bound", "realBound"])]
    index = rng.integers(len(values))
    values[index] = float(values[index] * rng.choice([0.0, 0.5, 0.9, 0.99, -1.0]))


def structure(document: Document, rng: Generator) -> None:
    """Something is missing, of another type, or too much."""
    region = _region(document, rng)
    changes: list[Callable[[], object]] = [
        lambda: region.pop(str(rng.choice(sorted(region)))),
        lambda: document.pop(str(rng.choice(sorted(document)))),
        lambda: region["steps"].pop(),
        lambda: region["steps"].append(copy.deepcopy(region["steps"][-1])),
        lambda: region["steps"][-1].update(start=region["steps"][-1]["start"] + 1),
        lambda: region["bound"].append(1.0),
        lambda: region["bound"].__setitem__(0, float("nan")),
        lambda: region["bound"].__setitem__(0, float("inf")),
        lambda: region["bound"].__setitem__(0, None),
        lambda: region["box"]["upper"].__setitem__(0, 10**400),
        lambda: document.update(schemaVersion=2),
        lambda: document.update(extra=1),
        lambda: document["regions"].pop(),
        lambda: document["tree"].append({"miss": True}),
        lambda: document["tree"].__setitem__(0, {"miss": False}),
        lambda: region["units"].pop(),
    ]
    changes[rng.integers(len(changes))]()


CORRUPTIONS: tuple[Callable[[Document, Generator], None], ...] = (
    weight_bit,
    weights_exchanged,
    box_side,
    root_side,
    box_and_root,
    threshold,
    split_children,
    split_feature,
    end_of_tree,
    unit_flag,
    bound,
    structure,
)


def changed_network(graph: Graph, rng: Generator) -> Graph:
    """Flip one bit of one weight of the network."""
    places = [index for index, node in enumerate(graph.nodes) if node.constants]
    index = int(rng.choice(places))
    node = graph.nodes[index]
    name = str(rng.choice(sorted(node.constants)))
    words = np.ascontiguousarray(node.constants[name]).view(np.uint32).copy()
    flat = words.reshape(-1)
    flat[rng.integers(flat.size)] ^= np.uint32(1 << int(rng.integers(31)))
    changed = replace(node, constants={**node.constants, name: words.view(np.float32)})
    return replace(graph, nodes=(*graph.nodes[:index], changed, *graph.nodes[index + 1 :]))
