"""A graph as JSON and raw little-endian float32 weights. No pickle; equal graphs give equal bytes."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
from ecompile_crds.errors import Code, ModelError

from .attributes import NOTHING, Attributes
from .graph import Array, DType, Graph, Node, Op, Tensor, problems
from .operators import OPERATORS

SCHEMA_VERSION = 2


def dump(graph: Graph) -> tuple[bytes, bytes]:
    """(JSON, weights)."""
    weights = bytearray()
    nodes = []
    for node in graph.nodes:
        constants = {}
        for name in sorted(node.constants):
            value = np.asarray(node.constants[name], dtype="<f4")
            constants[name] = {"shape": list(value.shape), "offset": len(weights)}
            weights += value.tobytes()
        nodes.append(
            {
                "op": node.op.value,
                "inputs": list(node.inputs),
                "output": _tensor(node.output),
                "constants": constants,
                "attributes": {f.name: _plain(getattr(node.attributes, f.name)) for f in fields(node.attributes)},
                "source": node.source,
            }
        )
    document = {
        "schemaVersion": SCHEMA_VERSION,
        "input": _tensor(graph.input),
        "output": _tensor(graph.output),
        "nodes": nodes,
        **({"inputs": [_tensor(each) for each in graph.inputs]} if graph.inputs else {}),
        **({"outputs": [_tensor(each) for each in graph.outputs]} if graph.outputs else {}),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode(), bytes(weights)


def load(text: bytes, weights: bytes) -> Graph:
    """The graph.

    Raises ModelError where the two do not fit together or the graph is not legal.
    """
    try:
        document = json.loads(text)
        if document["schemaVersion"] != SCHEMA_VERSION:
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"graph schema {document['schemaVersion']} is not known; this is {SCHEMA_VERSION}. Compile the model "
                "again.",
            )
        nodes = tuple(_node(entry, weights) for entry in document["nodes"])
        graph = Graph(
            input=_read_tensor(document["input"]),
            output=_read_tensor(document["output"]),
            nodes=nodes,
            inputs=tuple(_read_tensor(each) for each in document.get("inputs", ())),
            outputs=tuple(_read_tensor(each) for each in document.get("outputs", ())),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(Code.BUNDLE_MALFORMED, f"the stored graph cannot be read: {error!r}.") from error
    wrong = problems(graph)
    if wrong:
        raise ModelError(Code.BUNDLE_MALFORMED, f"the stored graph is not legal: {wrong[0]}.")
    return graph


def _node(entry: dict[str, Any], weights: bytes) -> Node:
    op = Op(entry["op"])
    return Node(
        op=op,
        inputs=tuple(str(name) for name in entry["inputs"]),
        output=_read_tensor(entry["output"]),
        constants={name: _array(where, weights) for name, where in entry["constants"].items()},
        attributes=NOTHING if op is Op.OPAQUE else _attributes(OPERATORS[op].attributes, entry["attributes"]),
        source=str(entry["source"]),
    )


def _array(where: dict[str, Any], weights: bytes) -> Array:
    shape = tuple(int(n) for n in where["shape"])
    count, offset = math.prod(shape), int(where["offset"])
    if min(shape, default=0) < 0 or offset < 0:
        raise ValueError("a weight has a negative size or offset")
    if count == 0:
        return np.zeros(shape, dtype=np.float32)
    return np.frombuffer(weights, dtype="<f4", count=count, offset=offset).reshape(shape).astype(np.float32)


def _plain(value: object) -> object:
    """A setting as JSON, which has no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _attributes(kind: type[Attributes], entry: dict[str, Any]) -> Attributes:
    """Settings by the types of their fields.

    Raises TypeError or ValueError where they do not fit.
    """
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in entry.items():
        wanted = types[name]
        if wanted is bool or isinstance(value, bool):
            if not (wanted is bool and isinstance(value, bool)):
                raise TypeError(f"{name} is {value!r}")
            values[name] = value
        else:
            # int, float, an enumeration, or a tuple of integers.
            values[name] = wanted(value) if isinstance(wanted, type) else tuple(int(v) for v in value)
    return kind(**values)


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.value,
        **({"internal": True} if tensor.internal else {}),
    }


def _read_tensor(entry: dict[str, Any]) -> Tensor:
    return Tensor(
        name=str(entry["name"]),
        shape=tuple(int(v) for v in entry["shape"]),
        dtype=DType(entry["dtype"]),
        internal=bool(entry.get("internal", False)),
    )
