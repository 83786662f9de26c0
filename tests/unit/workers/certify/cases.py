"""Networks, boxes and guard trees for the tests of certificates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from ecompile_workers.certify.certificate import write_certificate
from ecompile_workers.certify.network import Chain, read_chain
from ecompile_workers.certify.prove import prove
from ecompile_workers.certify.regions import Hit, Miss, RegionTree, Split
from ecompile_workers.ir.attributes import Epsilon
from ecompile_workers.ir.graph import Array, Graph, Node, Op, Tensor
from numpy.typing import NDArray

from ..networks import make_graph


def normed_graph(sizes: list[int], *, seed: int) -> Graph:
    """A chain with a batch norm, a product and a sum behind each matrix but the last, and a shift of the inputs."""
    rng = np.random.default_rng(seed)
    plain = make_graph(sizes, seed=seed)
    first = Tensor(name="shifted", shape=(sizes[0],))
    shift = {"b": rng.normal(size=sizes[0]).astype(np.float32)}
    nodes = [Node(op=Op.SUB, inputs=(plain.input.name,), output=first, constants=shift)]
    for node in plain.nodes:
        source = nodes[-1].output
        if node.op is Op.RELU:
            size = source.shape[0]
            constants = {
                "gamma": rng.uniform(0.5, 1.5, size),
                "beta": rng.normal(size=size),
                "mean": rng.normal(size=size),
                "variance": rng.uniform(0.5, 2, size),
            }
            kept = {name: value.astype(np.float32) for name, value in constants.items()}
            output = Tensor(name=f"{node.output.name}.norm", shape=source.shape)
            attributes = Epsilon(epsilon=1e-3)
            nodes.append(
                Node(op=Op.BATCH_NORM, inputs=(source.name,), output=output, constants=kept, attributes=attributes)
            )
            scale = {"a": rng.uniform(0.5, 2, size).astype(np.float32)}
            output = Tensor(name=f"{node.output.name}.scaled", shape=source.shape)
            nodes.append(Node(op=Op.MUL, inputs=(nodes[-1].output.name,), output=output, constants=scale))
        nodes.append(replace(node, inputs=(nodes[-1].output.name,)))
    return Graph(input=plain.input, output=nodes[-1].output, nodes=tuple(nodes))


def box_rows(lower: Array, upper: Array, count: int, *, seed: int) -> NDArray[np.float32]:
    """Inputs in a box: a quarter of them corners."""
    rng = np.random.default_rng(seed)
    share = rng.random((count, len(lower)))
    share[: count // 4] = share[: count // 4].round()
    wide = lower.astype(np.float64) + share * (upper.astype(np.float64) - lower)
    return np.clip(wide.astype(np.float32), lower, upper)


@cache
def small_case(seed: int) -> tuple[Graph, Chain, RegionTree]:
    """A network of 3 inputs, and a guard tree with three regions and a miss over a box."""
    graph = make_graph([3, 10, 10, 2], seed=seed)
    chain = read_chain(graph)
    lower, upper = np.full(3, -0.5, np.float32), np.full(3, 0.75, np.float32)
    nodes = (
        Split(feature=0, threshold=0.125, left=1, right=2),
        Split(feature=2, threshold=-0.0625, left=3, right=4),
        Split(feature=1, threshold=0.25, left=5, right=6),
        Hit(region=0),
        Hit(region=1),
        Hit(region=2),
        Miss(),
    )
    sides = [(((0, 0.125), (2, -0.0625)), ()), (((0, 0.125),), ((2, -0.0625),)), (((1, 0.25),), ((0, 0.125),))]
    regions = []
    for above, below in sides:
        low, high = lower.copy(), upper.copy()
        for feature, threshold in above:
            high[feature] = threshold
        for feature, threshold in below:
            low[feature] = threshold
        regions.append(prove(chain, low, high))
    return graph, chain, RegionTree(lower=lower, upper=upper, nodes=nodes, regions=tuple(regions), last_relu=False)


@cache
def small_certificate(seed: int) -> bytes:
    graph, _, tree = small_case(seed)
    return write_certificate(graph, tree)


def as_float32(chain: Chain, rows: NDArray[np.float32], *, backwards: bool) -> NDArray[np.float32]:
    """The chain in float32, term by term, in one order or the other; layers are taken as single matrices."""
    a = rows
    for number, layer in enumerate(chain.layers):
        weight, bias = layer.weight.astype(np.float32), layer.bias.astype(np.float32)
        order = range(weight.shape[0])
        total: NDArray[Any] = np.broadcast_to(bias, (len(a), bias.size)).copy()
        for k in reversed(order) if backwards else order:
            total = total + a[:, k : k + 1] * weight[k]
        a = np.maximum(total, 0) if number < len(chain.layers) - 1 or chain.last_relu else total
    return a
