"""Where a graph is cut, and why a part stays neural."""

from __future__ import annotations

import numpy as np
import pytest
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor
from ecompile_workers.ir.segments import blocks, cut_points, split

from ..networks import make_graph


def node(op: Op, inputs: str, name: str, **changes: object) -> Node:
    output = Tensor(name=name, shape=(4,), **changes)  # type: ignore[arg-type]  # fields of Tensor
    constants = {"weight": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)} if op is Op.GEMM else {}
    return Node(op=op, inputs=tuple(inputs.split()), output=output, constants=constants, source=op.value.title())


def graph(*nodes: Node) -> Graph:
    return Graph(input=Tensor(name="x", shape=(4,)), output=nodes[-1].output, nodes=nodes)


def test_a_chain_can_be_cut_everywhere() -> None:
    assert cut_points(make_graph([4, 4, 4])) == ("z0", "a0")


def test_a_residual_block_is_not_cut() -> None:
    whole = graph(node(Op.GEMM, "x", "a"), node(Op.RELU, "a", "b"), node(Op.ADD, "a b", "c"), node(Op.GEMM, "c", "d"))
    assert cut_points(whole) == ("a", "c")
    assert [[n.output.name for n in part.nodes] for part in blocks(whole)] == [["a"], ["b", "c"], ["d"]]
    assert [part.input.name for part in blocks(whole)] == ["x", "a", "c"]


@pytest.mark.parametrize("changes", [{"internal": True}, {"dtype": DType.INT64}])
def test_tensors_that_the_source_does_not_have_are_no_cut_points(changes: dict[str, object]) -> None:
    whole = graph(node(Op.GEMM, "x", "a"), node(Op.RELU, "a", "b", **changes), node(Op.RELU, "b", "c"))
    assert cut_points(whole) == ("a",)


def test_dense_network_is_one_segment() -> None:
    (part,) = split(make_graph([4, 8, 3], last=Op.SOFTMAX), obstacle)
    assert part.compilable and part.reason == "" and part.name == "segment-0"


def test_what_is_not_compiled_is_named_by_its_source() -> None:
    whole = graph(node(Op.GEMM, "x", "a"), node(Op.GELU, "a", "b"), node(Op.GEMM, "b", "c"))
    parts = split(whole, lambda part: next((n.source for n in part.nodes if n.op is Op.GELU), None))
    assert [p.compilable for p in parts] == [True, False, True]
    assert parts[1].reason == "not compiled by this version: Gelu"
    assert [p.graph.output.name for p in parts] == ["a", "b", "c"]


def test_activations_alone_are_not_worth_a_segment() -> None:
    whole = graph(node(Op.GELU, "x", "a"), node(Op.RELU, "a", "b"), node(Op.GELU, "b", "c"))
    (part,) = split(whole, obstacle)
    assert not part.compilable
    (only,) = split(graph(node(Op.RELU, "x", "a")), obstacle)
    assert only.reason == "no matrix product to speed up"


def test_another_code_generator_compiles_other_parts() -> None:
    whole = graph(node(Op.GEMM, "x", "a"), node(Op.GELU, "a", "b"), node(Op.GEMM, "b", "c"))
    (part,) = split(whole, lambda part: None)
    assert part.compilable and len(part.graph.nodes) == 3
