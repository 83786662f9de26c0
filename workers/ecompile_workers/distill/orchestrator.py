"""Pick, per segment, the replacement that measurement says is fastest; none where nothing beats the neural path.

Every strategy that the policy names is asked; what it proposes is compiled for this machine, compared with the original
where it is not exact, and measured beside the others on the same rows. The winner is then compiled for all targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Distill, Equivalence, Strategy
from ecompile_crds.jobs import CandidateReport

from ..codegen.abi import GuardBox
from ..codegen.compile import CompiledSegment, compile_graph
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..codegen.lowering.base import Unsupported
from ..equivalence.metrics import clopper_pearson_upper, row_delta
from ..equivalence.validate import answers, validate
from ..ir.graph import Graph
from .measure import Timing, infer, measured, session
from .outcome import Declined
from .strategies import STRATEGIES
from .strategy import Policy, Replacement, Rows, StrategyFunction

__all__ = ["Declined", "Distilled", "distill"]

MIN_GAIN = 1.05
"""What stands on weaker ground must gain more than measurements scatter."""
ROOM = 0.5
"""Share of the policy's limits that what is not exact may use up on the rows that judge it: the validate Job will find
rows that are worse."""
MAX_SAMPLES = 2000
"""Rows that are evidence."""

Progress = Callable[[str, float], None]
Measure = Callable[[Sequence[CompiledFunction], bytes, Rows], tuple[Sequence[Timing], float]]
"""Modules, neural path (ONNX), rows -> what each module takes, and seconds per row of the neural path."""


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A replacement that pays."""

    replacement: Replacement
    compiled: CompiledSegment
    evidence: Evidence
    microseconds: float
    speedup: float
    candidates: tuple[CandidateReport, ...]
    neural_microseconds: float

    @property
    def guard(self) -> GuardBox:
        return self.replacement.guard

    @property
    def strategy(self) -> str:
        return self.replacement.strategy.value

    @property
    def declined(self) -> tuple[str, ...]:
        """Why strategies that the policy wants are not in it."""
        return tuple(each.note for each in self.candidates if each.microseconds is None)


class Ground(IntEnum):
    """What speaks for a replacement, the strongest first."""

    EXACT = 0
    """It computes what the segment computes."""
    PROVEN = 1
    """So it does, and reduced code answers where a proof says that it may."""
    CERTIFIED = 2
    """A bound is computed for each input."""
    SAMPLED = 3
    """Only rows that were tried."""


def ground(replacement: Replacement) -> Ground:
    if replacement.certified is not None:
        return Ground.CERTIFIED
    if not replacement.exact:
        return Ground.SAMPLED
    return Ground.PROVEN if replacement.regions is not None else Ground.EXACT


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A replacement as code for this machine."""

    replacement: Replacement
    compiled: CompiledSegment
    module: CompiledFunction


def distill(
    graph: Graph,
    neural: bytes,
    calibration: Rows,
    policy: Distill,
    *,
    equivalence: Equivalence | None = None,
    strategies: Mapping[Strategy, StrategyFunction] | None = None,
    measure: Measure = measured,
    clock: Callable[[], float] = time.monotonic,
    progress: Progress = lambda step, fraction: None,
) -> Distilled | Declined:
    """The fastest replacement of a segment among the strategies of the policy, if it is faster than `neural` (ONNX).

    Raises ResourceError where the compiler fails.
    """
    usable = [level for level in cpu_levels() if level in {t.value for t in policy.targets}]
    if not usable:
        wanted = ", ".join(t.value for t in policy.targets)
        return Declined(reason=f"this machine runs none of the targets {wanted}, so nothing can be measured")
    rows = np.ascontiguousarray(calibration.reshape(len(calibration), -1), dtype=np.float32)
    limits = Policy(distill=policy, equivalence=equivalence or Equivalence())
    tried: list[_Tried] = []
    reports: dict[Strategy, CandidateReport] = {}
    known: dict[bytes, Strategy] = {}
    end = clock() + policy.budget_seconds
    asked = [each for each in (strategies or STRATEGIES) if each in policy.strategies]
    for position, strategy in enumerate(asked):
        progress(strategy.value, 0.7 * position / len(asked))
        if clock() > end:
            found: _Tried | Declined = Declined(
                reason=f"{strategy.value}: spec.distill.budgetSeconds ({policy.budget_seconds}) is used up"
            )
        else:
            propose = (strategies or STRATEGIES)[strategy]
            found = _try(propose, graph, neural, rows, limits, usable[0], known)
        if isinstance(found, Declined):
            reports[strategy] = CandidateReport(strategy=strategy.value, note=found.reason)
        else:
            tried.append(found)
    if not tried:
        return Declined(reason="; ".join(report.note for report in reports.values()), candidates=_ordered(reports))
    progress("measure", 0.75)
    timings, neural_seconds = measure([each.module for each in tried], neural, rows)
    for each, timing in zip(tried, timings, strict=True):
        taken = timing.with_refused(neural_seconds)
        reports[each.replacement.strategy] = CandidateReport(
            strategy=each.replacement.strategy.value,
            microseconds=round(taken * 1e6, 3),
            speedup=round(neural_seconds / taken, 2),
            evidence=each.replacement.certified,
            answered=round(timing.answered, 4),
            note=each.replacement.note,
        )
    grounds = [ground(each.replacement) for each in tried]
    best = tried[choose(grounds, [timing.with_refused(neural_seconds) for timing in timings])]
    report = reports[best.replacement.strategy]
    assert report.microseconds is not None and report.speedup is not None, "it was measured"
    if report.speedup <= policy.min_speedup:
        reason = f"does not pay: measured {report.speedup:.2f}x, spec.distill.minSpeedup is {policy.min_speedup}"
        return Declined(reason=reason, candidates=_ordered(reports))
    evidence = _evidence(best, neural, rows, limits.equivalence)
    reports[best.replacement.strategy] = report.model_copy(update={"evidence": evidence})
    others = [t.value for t in policy.targets if t.value != usable[0]]
    rest = _compiled(best.replacement, others, lambda step, fraction: progress(step, 0.8 + 0.2 * fraction))
    return Distilled(
        replacement=best.replacement,
        compiled=replace(
            best.compiled,
            sources={**best.compiled.sources, **rest.sources},
            libraries={**best.compiled.libraries, **rest.libraries},
        ),
        evidence=evidence,
        microseconds=report.microseconds,
        speedup=report.speedup,
        candidates=_ordered(reports),
        neural_microseconds=round(neural_seconds * 1e6, 3),
    )


def choose(grounds: Sequence[Ground], seconds: Sequence[float]) -> int:
    """The fastest; but what stands on weaker ground only where it beats all that is stronger by `MIN_GAIN`."""
    order = sorted(range(len(seconds)), key=lambda index: (grounds[index], seconds[index]))
    best = order[0]
    for index in order[1:]:
        needed = MIN_GAIN if grounds[index] > grounds[best] else 1.0
        if seconds[index] * needed < seconds[best]:
            best = index
    return best


def _ordered(reports: Mapping[Strategy, CandidateReport]) -> tuple[CandidateReport, ...]:
    return tuple(reports[each] for each in Strategy if each in reports)


def _compiled(replacement: Replacement, levels: Sequence[str], progress: Progress) -> CompiledSegment:
    return compile_graph(
        replacement.graph, replacement.guard, levels=levels, regions=replacement.regions, progress=progress
    )


def _try(
    propose: StrategyFunction,
    graph: Graph,
    neural: bytes,
    rows: Rows,
    policy: Policy,
    level: str,
    known: dict[bytes, Strategy],
) -> _Tried | Declined:
    """What a strategy proposes, compiled for `level`. `known`: libraries that there are already."""
    found = propose(graph, rows, policy)
    if isinstance(found, Declined):
        return found
    name = found.strategy.value
    try:
        compiled = _compiled(found, [level], lambda step, fraction: None)
    except Unsupported as error:
        return Declined(reason=f"{name}: it needs {error}, which is not compiled by this version")
    library = compiled.libraries[level]
    if library in known:
        return Declined(reason=f"{name}: the same code as {known[library].value}")
    known[library] = found.strategy
    tried = _Tried(replacement=found, compiled=compiled, module=CompiledFunction(library, macs=found.graph.macs))
    wrong = None if found.exact else _difference(tried, neural, rows, policy.equivalence)
    return tried if wrong is None else Declined(reason=f"{name}: not equivalent: {wrong}; it would be {found.note}")


def _difference(tried: _Tried, neural: bytes, rows: Rows, equivalence: Equivalence) -> str | None:
    """What a validation under stricter limits finds wrong; None where nothing is."""
    narrow = {name: ROOM * getattr(equivalence, name) for name in ("max_relative_error", "max_deviation")}
    judging = tried.replacement.judging
    chosen = rows if judging is None else rows[judging]
    strict = equivalence.model_copy(update={**narrow, "test_inputs": max(equivalence.test_inputs, len(chosen))})
    original = session(neural)
    replacement = tried.replacement
    found = validate(
        tried.module,
        lambda x: infer(original, x),
        chosen,
        strict,
        guard=replacement.guard,
        integers=replacement.graph.integers,
    )
    return None if found.passed else found.reason


def _evidence(tried: _Tried, neural: bytes, rows: Rows, equivalence: Equivalence) -> Evidence:
    """A bound on how often an answer errs by more than the limit, from rows that the code was not made from; of exact
    code, from all rows. What a certificate bounds needs no sample."""
    replacement = tried.replacement
    if replacement.certified is not None:
        return replacement.certified
    chosen = rows if replacement.judging is None else rows[replacement.judging]
    sample = chosen[:MAX_SAMPLES]
    outputs, answered = answers(tried.module, sample)
    errors = row_delta(infer(session(neural), sample)[answered], outputs[answered])
    over, samples = int((errors > equivalence.max_relative_error).sum()), int(answered.sum())
    return Evidence(
        kind=EvidenceKind.SAMPLED,
        samples=samples,
        bound=clopper_pearson_upper(over, samples, equivalence.confidence),
        confidence=equivalence.confidence,
        proven_coverage=replacement.proof.proven_coverage if replacement.proof is not None else None,
    )
