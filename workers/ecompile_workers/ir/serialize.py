"""A graph as JSON and raw little-endian float32 weights. No pickle; equal graphs give equal bytes."""

from __future__ import annotations

import json

import numpy as np
from ecompile_crds.errors import Code, ModelError

from .graph import Graph, Node, Op, Tensor

SCHEMA_VERSION = 1


def dump(graph: Graph) -> tuple[bytes, bytes]:
    """(JSON, weights)."""
    weights = bytearray()
    nodes = []
    for node in graph.nodes:
        constants = {}
        for name in sorted(node.constants):
            value = np.ascontiguousarray(node.constants[name], dtype="<f4")
            constants[name] = {"shape": list(value.shape), "offset": len(weights)}
            weights += value.tobytes()
        nodes.append(
            {
                "op": node.op.value,
                "inputs": list(node.inputs),
                "output": _tensor(node.output),
                "constants": constants,
                "epsilon": node.epsilon,
                "source": node.source,
            }
        )
    document = {
        "schemaVersion": SCHEMA_VERSION,
        "input": _tensor(graph.input),
        "output": _tensor(graph.output),
        "nodes": nodes,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), bytes(weights)


def load(text: bytes, weights: bytes) -> Graph:
    """The graph.

    Raises ModelError where the two do not fit together.
    """
    try:
        document = json.loads(text)
        if document["schemaVersion"] != SCHEMA_VERSION:
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"graph schema {document['schemaVersion']} is not known; this is {SCHEMA_VERSION}.",
            )
        nodes = []
        for entry in document["nodes"]:
            constants = {}
            for name, where in entry["constants"].items():
                count = int(np.prod(where["shape"], dtype=np.int64))
                value = np.frombuffer(weights, dtype="<f4", count=count, offset=where["offset"])
                constants[name] = value.reshape(where["shape"]).astype(np.float32)
            nodes.append(
                Node(
                    op=Op(entry["op"]),
                    inputs=tuple(entry["inputs"]),
                    output=_read_tensor(entry["output"]),
                    constants=constants,
                    epsilon=entry["epsilon"],
                    source=entry["source"],
                )
            )
        return Graph(input=_read_tensor(document["input"]), output=_read_tensor(document["output"]), nodes=tuple(nodes))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(Code.BUNDLE_MALFORMED, f"the stored graph cannot be read: {error!r}.") from error


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "shape": list(tensor.shape)}


def _read_tensor(entry: dict[str, object]) -> Tensor:
    shape = entry["shape"]
    assert isinstance(shape, list)
    return Tensor(name=str(entry["name"]), shape=tuple(int(v) for v in shape))
