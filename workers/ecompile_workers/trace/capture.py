"""A trace of a graph through the reference interpreter: no framework needed, and the same bytes for the same inputs."""

from __future__ import annotations

import platform
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..ir.graph import Graph, Node
from ..ir.interpreter import Values, run
from ..ir.op import DType
from . import nfrtrace
from .sampling import MAX_VALUES, fingerprint, positions

MAX_BYTES = 1 << 28
"""Of raw values per trace; beyond it fewer rows are kept."""
BLOCK_VALUES = 1 << 23
"""Float64 numbers that one block of rows may need in the interpreter, about."""


def block_rows(graph: Graph) -> int:
    """Rows per pass through the interpreter, so that memory does not grow with the network."""
    largest = max(tensor.size for tensor in graph.tensors.values())
    return int(np.clip(BLOCK_VALUES // (4 * max(1, largest)), 1, 256))


def capture(
    graph: Graph,
    inputs: NDArray[np.float32],
    target: BinaryIO,
    *,
    model_digest: str,
    rate: float,
    seed: int,
    max_values: int = MAX_VALUES,
) -> int:
    """Record every float32 layer for a sampled share of the rows [rows, features]; returns the number of records.

    `graph` must have no opaque node.
    """
    traced = [n.output for n in graph.nodes if n.output.dtype is DType.FLOAT32]
    row_bytes = 4 * sum(min(tensor.size, max_values) for tensor in traced)
    chosen = np.flatnonzero(np.random.default_rng(seed).random(len(inputs)) < rate)[: MAX_BYTES // max(1, row_bytes)]
    header = {
        "modelDigest": model_digest,
        "input": {"name": graph.input.name, "shape": list(graph.input.shape), "dtype": graph.input.dtype},
        "layers": [tensor.name for tensor in traced],
        "kinds": [nfrtrace.Kind.ACTIVATION],
        "seed": seed,
        "rate": rate,
        "hardware": platform.machine(),
        "framework": "reference interpreter",
    }
    places = {t.name: positions(t.name, t.size, limit=max_values, seed=seed) for t in traced}
    with nfrtrace.Writer(target, header) as writer:
        step = block_rows(graph)
        for start in range(0, len(chosen), step):
            block = inputs[chosen[start : start + step]]
            prints = tuple(fingerprint(row) for row in block)

            def visit(node: Node, values: Values, prints: tuple[str, ...] = prints) -> None:
                name = node.output.name
                if name not in places:
                    return
                flat = np.broadcast_to(values, (len(prints), *node.output.shape)).reshape(len(prints), -1)
                kept = flat if places[name] is None else flat[:, places[name]]
                entry = nfrtrace.Entry(
                    layer=name,
                    fingerprints=prints,
                    shape=node.output.shape,
                    values=kept.astype(np.float32),
                    positions=places[name],
                )
                writer.add(entry)

            run(graph, block, visit=visit)
    return writer.records
