"""Pick, per segment, the replacement that measurement says is fastest; none where nothing beats the neural path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ecompile_crds.hybridmodel import Distill, Strategy
from numpy.typing import NDArray

from ..codegen.abi import GuardBox
from ..codegen.compile import CompiledSegment, compile_graph
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..ir.graph import Graph
from .guard import box
from .measure import measure, session, traffic_gain
from .outcome import Declined
from .regions import Regions, find_regions

__all__ = ["Declined", "Distilled", "distill"]

MEASURED_ROWS = 1000
"""Rows of the traffic on which modules are compared."""
MIN_GAIN = 1.05
"""Regions must gain more than measurements scatter."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A replacement that pays."""

    compiled: CompiledSegment
    guard: GuardBox
    strategy: str
    speedup: float
    regions: Regions | None = None
    """The proof, where code of proven regions answers part of the traffic."""
    declined: tuple[str, ...] = ()
    """Why strategies that the policy wants are not in it."""


def distill(
    graph: Graph,
    neural: bytes,
    calibration: NDArray[np.float32],
    policy: Distill,
    *,
    progress: Progress = lambda step, fraction: None,
) -> Distilled | Declined:
    """The exact replacement of a segment (constants folded, tiled code), with code for proven regions where the policy
    wants them and they are faster; if all that is faster than `neural` (ONNX).

    Raises ResourceError where the compiler fails.
    """
    guard = box(calibration, graph.integers)
    usable = [level for level in cpu_levels() if level in {t.value for t in policy.targets}]
    if not usable:
        wanted = ", ".join(t.value for t in policy.targets)
        return Declined(reason=f"this machine runs none of the targets {wanted}, so nothing can be measured")
    compiled = compile_graph(graph, guard, levels=[t.value for t in policy.targets], progress=progress)
    module = CompiledFunction(compiled.libraries[usable[0]], macs=compiled.macs)
    progress("measure", 0.8)
    latency = measure(module, session(neural), calibration[:1])
    regions = None
    if Strategy.REGIONS in policy.strategies:
        regions = _regions(graph, calibration, guard, module, policy, progress)
    gain = regions.gain if isinstance(regions, _Faster) else 1.0
    speedup = round(latency.speedup * gain, 2)
    if speedup <= policy.min_speedup:
        return Declined(
            reason=f"does not pay: measured {speedup:.2f}x, spec.distill.minSpeedup is {policy.min_speedup}"
        )
    if isinstance(regions, _Faster):
        found = regions.found
        return Distilled(compiled=regions.compiled, guard=guard, strategy="regions", speedup=speedup, regions=found)
    declined = (regions.reason,) if regions is not None else ()
    return Distilled(compiled=compiled, guard=guard, strategy="exact", speedup=speedup, declined=declined)


@dataclass(frozen=True, kw_only=True)
class _Faster:
    """Regions that pay: `gain` times the dense code on the traffic."""

    found: Regions
    compiled: CompiledSegment
    gain: float


def _regions(
    graph: Graph,
    calibration: NDArray[np.float32],
    guard: GuardBox,
    dense: CompiledFunction,
    policy: Distill,
    progress: Progress,
) -> _Faster | Declined:
    """The module with regions, if it is faster than the dense one on a sample of the traffic."""
    found = find_regions(graph, calibration, progress=progress)
    if isinstance(found, Declined):
        return found
    levels = [t.value for t in policy.targets]
    compiled = compile_graph(graph, guard, levels=levels, regions=found.tree, progress=progress)
    module = CompiledFunction(compiled.libraries[dense.level], macs=compiled.macs)
    sample = calibration.reshape(len(calibration), -1)
    gain = traffic_gain(module, dense, sample[:: max(1, len(sample) // MEASURED_ROWS)])
    if gain < MIN_GAIN:
        return Declined(reason=f"regions: measured {gain:.2f}x the dense code; {MIN_GAIN}x is the least that pays")
    return _Faster(found=found, compiled=compiled, gain=gain)
