"""Stored graphs: settings come back as they were, and damaged ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ecompile_crds.errors import Code, ModelError
from ecompile_workers.ir import serialize
from ecompile_workers.ir.attributes import Bounds, Cast, Padding, PadMode
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor

from ..networks import make_graph


def stored(*nodes: Node) -> Graph:
    graph = Graph(input=Tensor(name="x", shape=(3,)), output=nodes[-1].output, nodes=nodes)
    return serialize.load(*serialize.dump(graph))


def test_infinite_bounds_come_back() -> None:
    node = Node(op=Op.CLIP, inputs=("x",), output=Tensor(name="y", shape=(3,)), attributes=Bounds(upper=1.5))
    (found,) = stored(node).nodes
    assert found.attributes == Bounds(lower=float("-inf"), upper=1.5)


def test_enumerations_tuples_and_types_come_back() -> None:
    pad = Node(
        op=Op.PAD,
        inputs=("x",),
        output=Tensor(name="p", shape=(5,), internal=True),
        attributes=Padding(begin=(1,), end=(1,), mode=PadMode.EDGE),
        source="Pad",
    )
    cast = Node(
        op=Op.CAST,
        inputs=("p",),
        output=Tensor(name="y", shape=(5,), dtype=DType.BOOL),
        attributes=Cast(to=DType.BOOL),
    )
    assert stored(pad, cast).nodes == (pad, cast)


def test_opaque_operators_keep_their_names() -> None:
    node = Node(op=Op.OPAQUE, inputs=("x",), output=Tensor(name="y", shape=(3,)), source="Selu")
    assert stored(node).opaque_operators == ("Selu",)


def test_equal_graphs_give_equal_bytes() -> None:
    assert serialize.dump(make_graph([4, 5, 3])) == serialize.dump(make_graph([4, 5, 3]))


def edit(change: Callable[[Any], None]) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    def run(text: bytes, weights: bytes) -> tuple[bytes, bytes]:
        document = json.loads(text)
        change(document)
        return json.dumps(document).encode(), weights

    return run


def first(**changes: Any) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    return edit(lambda d: d["nodes"][0].update(changes))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda text, weights: (text[:50], weights), Code.BUNDLE_MALFORMED),
        (lambda text, weights: (b"[]", weights), Code.BUNDLE_MALFORMED),
        (lambda text, weights: (text, weights[:8]), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d.update(schemaVersion=1)), Code.BUNDLE_INCOMPATIBLE),
        (first(op="magic"), Code.BUNDLE_MALFORMED),
        (first(inputs=["nothing"]), Code.BUNDLE_MALFORMED),
        (first(inputs=[]), Code.BUNDLE_MALFORMED),
        (first(attributes={"slope": 1}), Code.BUNDLE_MALFORMED),
        (first(constants={}), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d["nodes"][0]["constants"]["weight"].update(shape=[2, 2])), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d["nodes"][0]["constants"]["weight"].update(shape=[-4, -5])), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d["nodes"][0]["constants"]["weight"].update(offset=-4)), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d["nodes"][0]["output"].update(dtype="float64")), Code.BUNDLE_MALFORMED),
        (edit(lambda d: d["output"].update(shape=[7])), Code.BUNDLE_MALFORMED),
    ],
)
def test_damaged_graphs_are_refused(damage: Callable[[bytes, bytes], tuple[bytes, bytes]], code: Code) -> None:
    text, weights = serialize.dump(make_graph([4, 5, 3]))
    with pytest.raises(ModelError) as caught:
        serialize.load(*damage(text, weights))
    assert caught.value.code is code


def test_weights_are_little_endian_float32() -> None:
    graph = make_graph([1, 1])
    _, weights = serialize.dump(graph)
    node = graph.nodes[0]
    expected = [float(node.constants[name].reshape(-1)[0]) for name in sorted(node.constants)]
    assert np.frombuffer(weights, "<f4").tolist() == expected
