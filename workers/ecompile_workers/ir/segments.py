"""Cut a graph where exactly one tensor is live, into parts that can be compiled and parts that stay neural."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .graph import DType, Graph, Node, Tensor

Obstacle = Callable[[Graph], str | None]
"""Why a part cannot be compiled, as the end of a sentence; None where it can. The code generator gives it."""

DOUBT = 1.5
"""Factor in favour of compiling: what is predicted is measured afterwards, and stays neural if it does not pay."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Part of a network between two cut points."""

    index: int
    graph: Graph
    compilable: bool
    reason: str = ""
    """Why it stays neural; empty where it can be compiled."""

    @property
    def name(self) -> str:
        return f"segment-{self.index}"


@dataclass
class _Run:
    """Consecutive blocks of one kind."""

    compilable: bool
    nodes: list[Node]
    reasons: list[str]


class Costs(Protocol):
    """What parts take, in seconds per row; `distill/costs.py` has one that is calibrated on this machine."""

    def compiled_seconds(self, graph: Graph) -> float: ...

    def neural_seconds(self, graph: Graph) -> float: ...

    @property
    def neural_call_seconds(self) -> float:
        """Of these, what one more session costs."""


def split(graph: Graph, obstacle: Obstacle, costs: Costs | None = None) -> tuple[Segment, ...]:
    """Segments in order of execution; the output of one is the input of the next. At least one.

    A part that could be compiled but has nothing to multiply joins the neural part before it: cutting there would only
    cost. With `costs`, so does every part between neural ones that would cost more than it saves; a network that can be
    compiled as a whole is one segment, and measured.
    """
    runs: list[_Run] = []
    for part in blocks(graph):
        reason = _opaque(part) or obstacle(part)
        if not runs or runs[-1].compilable != (reason is None):
            runs.append(_Run(compilable=reason is None, nodes=[], reasons=[]))
        runs[-1].nodes.extend(part.nodes)
        runs[-1].reasons.extend([reason] if reason else [])
    merged: list[_Run] = []
    for index, run in enumerate(runs):
        if run.compilable and not _worth_it(runs, index, graph, costs):
            run = _Run(compilable=False, nodes=run.nodes, reasons=[])
        if merged and not run.compilable and not merged[-1].compilable:
            merged[-1] = _Run(
                compilable=False,
                nodes=[*merged[-1].nodes, *run.nodes],
                reasons=[*merged[-1].reasons, *run.reasons],
            )
        else:
            merged.append(run)
    return tuple(
        Segment(
            index=index,
            graph=_part(run.nodes, graph),
            compilable=run.compilable,
            reason="" if run.compilable else _reason(run.reasons),
        )
        for index, run in enumerate(merged)
    )


def _worth_it(runs: list[_Run], index: int, graph: Graph, costs: Costs | None) -> bool:
    """Whether a run that can be compiled is a segment of its own.

    Each run can be judged by itself: leaving it neural joins it to its neighbours, whatever becomes of the others.
    """
    part = _part(runs[index].nodes, graph)
    if part.macs == 0:
        return False
    neighbours = (index > 0) + (index < len(runs) - 1)
    if costs is None or neighbours == 0:
        return True
    apart = costs.compiled_seconds(part) / DOUBT + (neighbours - 1) * costs.neural_call_seconds
    joined = costs.neural_seconds(part) - costs.neural_call_seconds
    return apart < joined


def _opaque(graph: Graph) -> str | None:
    """The operators of a part that are not known."""
    return ", ".join(graph.opaque_operators) or None


def _reason(reasons: list[str]) -> str:
    if not reasons:
        return "no matrix product to speed up"
    return f"not compiled by this version: {', '.join(sorted(set(reasons)))}"


def _part(nodes: list[Node], whole: Graph) -> Graph:
    """Consecutive nodes between two cut points: the one tensor that they read from before is their input."""
    made = {node.output.name for node in nodes}
    source = next(name for node in nodes for name in node.inputs if name not in made)
    output = nodes[-1].output
    return Graph(
        input=whole.tensors[source],
        output=output,
        nodes=tuple(nodes),
        inputs=whole.inputs if source == whole.input.name else (),
        outputs=whole.outputs if output == whole.output else (),
    )


def blocks(graph: Graph) -> list[Graph]:
    """The smallest parts: between consecutive points at which exactly one tensor is live, and float32."""
    last_use = {graph.output.name: len(graph.nodes)}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_use[name] = max(last_use.get(name, -1), position)
    found: list[Graph] = []
    current: list[Node] = []
    live = {graph.input.name}
    for position, node in enumerate(graph.nodes):
        current.append(node)
        live.add(node.output.name)
        live = {name for name in live if last_use.get(name, -1) > position}
        if live == {node.output.name} and _cuttable(node.output):
            found.append(_part(current, graph))
            current = []
    if current:
        found.append(_part(current, graph))
    return found


def _cuttable(tensor: Tensor) -> bool:
    """Segments exchange float32 under names that the source knows."""
    return tensor.dtype is DType.FLOAT32 and not tensor.internal


def cut_points(graph: Graph) -> tuple[str, ...]:
    """Names of the tensors at which the graph can be cut, the output left out."""
    return tuple(part.output.name for part in blocks(graph)[:-1])
