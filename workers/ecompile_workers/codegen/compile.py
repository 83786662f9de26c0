"""A segment as code for each level: print, compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..certify.regions import RegionTree
from ..ir.graph import Graph
from . import toolchain
from .abi import GuardBox
from .c_printer import print_c
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
    regions: RegionTree | None = None,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> CompiledSegment:
    """Compile a graph.

    Raises ResourceError where the compiler fails, Unsupported where an operator cannot be compiled.
    """
    sources: dict[str, str] = {}
    libraries: dict[str, bytes] = {}
    for position, name in enumerate(levels):
        progress(f"compile {name}", position / len(levels))
        printed = print_c(graph, guard, LEVELS[name], regions=regions)
        sources[name] = printed.source
        libraries[name] = toolchain.build(printed, LEVELS[name], optimisation=optimisation)
    return CompiledSegment(sources=sources, libraries=libraries, macs=graph.macs)
