"""Cut a graph where exactly one tensor is live, into parts that can be compiled and parts that stay neural."""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph, Node, Op, Tensor


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


def split(graph: Graph) -> tuple[Segment, ...]:
    """Segments in order of execution; the output of one is the input of the next. At least one."""
    runs: list[tuple[bool, list[Node]]] = []
    for block in _blocks(graph):
        known = all(node.op is not Op.OPAQUE for node in block) and len(block) == 1
        if runs and runs[-1][0] == known:
            runs[-1][1].extend(block)
        else:
            runs.append((known, block))
    merged: list[tuple[bool, list[Node]]] = []
    for known, nodes in runs:
        compilable = known and any(node.op is Op.GEMM for node in nodes)
        if merged and not compilable and not merged[-1][0]:
            merged[-1][1].extend(nodes)
        else:
            merged.append((compilable, list(nodes)))
    segments: list[Segment] = []
    source = graph.input
    for index, (compilable, nodes) in enumerate(merged):
        part = Graph(input=source, output=nodes[-1].output, nodes=tuple(nodes))
        segments.append(
            Segment(index=index, graph=part, compilable=compilable, reason="" if compilable else _reason(part))
        )
        source = nodes[-1].output
    return tuple(segments)


def _reason(graph: Graph) -> str:
    if graph.opaque_operators:
        return f"operators not supported by this version: {', '.join(graph.opaque_operators)}"
    return "no matrix product to speed up"


def _blocks(graph: Graph) -> list[list[Node]]:
    """Nodes between consecutive points at which one tensor is live."""
    last_use: dict[str, int] = {graph.output.name: len(graph.nodes)}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_use[name] = max(last_use.get(name, -1), position)
    blocks: list[list[Node]] = []
    current: list[Node] = []
    made: list[Tensor] = [graph.input]
    for position, node in enumerate(graph.nodes):
        current.append(node)
        made.append(node.output)
        live = [t for t in made if last_use.get(t.name, -1) > position]
        if [t.name for t in live] == [node.output.name]:
            blocks.append(current)
            current = []
        made = live
    if current:
        blocks.append(current)
    return blocks
