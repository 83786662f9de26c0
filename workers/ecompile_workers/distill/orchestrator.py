"""Pick, per segment, the replacement that measurement says is fastest; none where nothing beats the neural path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ecompile_crds.hybridmodel import Distill
from numpy.typing import NDArray

from ..codegen.abi import GuardBox
from ..codegen.compile import CompiledSegment, compile_graph
from ..codegen.levels import supported
from ..codegen.loader import CompiledFunction
from ..ir.graph import Graph
from .guard import box
from .measure import measure, session
from .outcome import Declined

__all__ = ["Declined", "Distilled", "cpu_levels", "distill"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A replacement that pays."""

    compiled: CompiledSegment
    guard: GuardBox
    strategy: str
    speedup: float


def cpu_levels() -> tuple[str, ...]:
    """Levels of this machine, best first."""
    return supported(Path("/proc/cpuinfo").read_text())


def distill(
    graph: Graph,
    neural: bytes,
    calibration: NDArray[np.float32],
    policy: Distill,
    *,
    progress: Progress = lambda step, fraction: None,
) -> Distilled | Declined:
    """The exact replacement of a segment (constants folded, tiled code), if it is faster than `neural` (ONNX).

    Raises ResourceError where the compiler fails.
    """
    guard = box(calibration)
    usable = [level for level in cpu_levels() if level in {t.value for t in policy.targets}]
    if not usable:
        wanted = ", ".join(t.value for t in policy.targets)
        return Declined(reason=f"this machine runs none of the targets {wanted}, so nothing can be measured")
    compiled = compile_graph(graph, guard, levels=[t.value for t in policy.targets], progress=progress)
    module = CompiledFunction(compiled.libraries[usable[0]], macs=compiled.macs)
    progress("measure", 0.8)
    latency = measure(module, session(neural), calibration[:1])
    speedup = round(latency.speedup, 2)
    if speedup <= policy.min_speedup:
        return Declined(
            reason=f"does not pay: measured {speedup:.2f}x, spec.distill.minSpeedup is {policy.min_speedup}"
        )
    return Distilled(compiled=compiled, guard=guard, strategy="exact", speedup=speedup)
