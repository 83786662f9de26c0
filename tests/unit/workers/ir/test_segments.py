"""Where a graph is cut, and why a part stays neural."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor
from ecompile_workers.ir.segments import DOUBT, blocks, cut_points, split
from hypothesis import given, settings
from hypothesis import strategies as st

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


@dataclass(frozen=True)
class Told:
    """Compiled code takes `compiled` per operator, the neural path 1 per operator and 10 per call."""

    compiled: float
    neural_call_seconds: float = 10.0

    def compiled_seconds(self, part: Graph) -> float:
        return self.compiled * len(part.nodes)

    def neural_seconds(self, part: Graph) -> float:
        return self.neural_call_seconds + len(part.nodes)


UNKNOWN = "Gelu"


def mixed(known: int) -> Graph:
    """A matrix, an operator that is not compiled, `known` matrices, another such operator, a matrix."""
    names = ["x", "a", "b", *(f"c{i}" for i in range(known)), "d", "e"]
    ops = [Op.GEMM, Op.GELU, *[Op.GEMM] * known, Op.GELU, Op.GEMM]
    return graph(*(node(op, before, after) for op, before, after in zip(ops, names, names[1:], strict=False)))


def refuses(part: Graph) -> str | None:
    return next((n.source for n in part.nodes if n.source == UNKNOWN), None)


@pytest.mark.parametrize(
    ("known", "compiled", "kinds"),
    [
        (3, 0.1, [True, False, True]),  # between neural parts, 3 operators cannot save what a session costs
        (40, 0.1, [True, False, True, False, True]),
        (40, 2.0, [False]),  # compiled code that is slower pays nowhere
    ],
)
def test_costs_say_which_parts_are_worth_a_segment(known: int, compiled: float, kinds: list[bool]) -> None:
    parts = split(mixed(known), refuses, Told(compiled))
    assert [part.compilable for part in parts] == kinds
    assert sum(len(part.graph.nodes) for part in parts) == known + 4


def test_without_costs_every_part_that_multiplies_is_a_segment() -> None:
    assert [part.compilable for part in split(mixed(1), refuses)] == [True, False, True, False, True]


def test_a_network_that_compiles_whole_is_left_to_the_measurement() -> None:
    (part,) = split(make_graph([4, 8, 3]), obstacle, Told(1e9))
    assert part.compilable


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=9), st.floats(0.1, 3.0), st.floats(0.0, 20.0))
def test_no_other_choice_of_segments_is_cheaper(kinds: list[bool], compiled: float, call: float) -> None:
    """Against all choices, by the same costs (the doubt in favour of compiling included)."""
    names = ["x", *(f"n{i}" for i in range(len(kinds)))]
    ops = [Op.GEMM if kind else Op.GELU for kind in kinds]
    whole = graph(*(node(op, a, b) for op, a, b in zip(ops, names, names[1:], strict=False)))
    costs = Told(compiled, call)
    plain = split(whole, refuses)
    chosen = {part.graph.output.name for part in split(whole, refuses, costs) if part.compilable}

    def price(kept: tuple[bool, ...]) -> float:
        """Seconds of a choice among the parts that could be compiled."""
        total, neural_before = 0.0, False
        left = iter(kept)
        for part in plain:
            stays = part.compilable and next(left)
            count = len(part.graph.nodes)
            total += compiled * count / DOUBT if stays else count + (0.0 if neural_before else call)
            neural_before = not stays
        return total

    possible = [part for part in plain if part.compilable]
    if len(plain) == 1:
        return
    best = min(price(kept) for kept in itertools.product((True, False), repeat=len(possible)))
    assert price(tuple(part.graph.output.name in chosen for part in possible)) <= best + 1e-9
