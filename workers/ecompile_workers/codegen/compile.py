"""A segment as code for each level: fold, print, compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph
from . import toolchain
from .abi import GuardBox
from .c_printer import print_c
from .fold import layers
from .levels import LEVELS


@dataclass(frozen=True, kw_only=True)
class CompiledSegment:
    """Sources and libraries by level."""

    sources: dict[str, str]
    libraries: dict[str, bytes]
    macs: int


def compile_graph(
    graph: Graph,
    guard: GuardBox,
    *,
    levels: Sequence[str],
    optimisation: str = "O3",
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> CompiledSegment:
    """Compile a graph of known operators.

    Raises ResourceError where the compiler fails.
    """
    folded = layers(graph)
    sources: dict[str, str] = {}
    libraries: dict[str, bytes] = {}
    for position, name in enumerate(levels):
        progress(f"compile {name}", position / len(levels))
        printed = print_c(folded, guard, LEVELS[name])
        sources[name] = printed.source
        libraries[name] = toolchain.build(printed, LEVELS[name], optimisation=optimisation)
    return CompiledSegment(sources=sources, libraries=libraries, macs=sum(int(each.weight.size) for each in folded))
