"""From a segment to a formula: engines propose, and inputs that they never saw decide.

Guards against what engines call exact: every third row is kept back from them; the segment itself is asked anew all
over the box that a module would answer in, its corners included; a formula with a constant per few rows is refused; so
is one that is not finite somewhere in the box. Exact is only what holds at every one of these points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from ecompile_crds.errors import EcompileError

from ...codegen.abi import GuardBox
from ...ir.graph import Graph
from ...ir.interpreter import run
from ..guard import box
from .engine import MAX_INPUTS, Candidate, Engine, Problem, pareto, rmse
from .expression import Expression, Numbers, constants, evaluate
from .operon import Operon
from .refit import refitted, snapped
from .sparse import SparseRegression

Oracle = Callable[[Numbers], Numbers]
"""Rows [rows, variables] -> outputs [rows, outputs], in float64."""
MIN_ROWS = 60
HELD_OUT_EVERY = 3
BOX_ROWS = 2000
"""Asked of the segment inside of the box, besides its corners."""
EXACT = 1e-6
"""Largest deviation, relative to half of the range of outputs, that float32 weights explain."""
ROWS_PER_CONSTANT = 10
REFITTED = 5
"""Of the candidates of an engine, so many of the most accurate are refitted."""


class Verdict(StrEnum):
    """What a formula is."""

    EXACT = "exact"
    """Equal to the segment, but for rounding, at every point that was tried."""
    APPROXIMATE = "approximate"
    """Within the tolerance at every point that was tried."""
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One candidate on inputs that no engine saw; errors are the largest, relative to half of the target's range."""

    candidate: Candidate
    verdict: Verdict
    fit_error: float
    """Root mean square on the rows that engines saw."""
    held_out_error: float
    box_error: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A segment as expressions, one per output."""

    outputs: tuple[Judgement, ...]
    notes: tuple[str, ...]
    """Which engines could not run, and why."""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return tuple(found.candidate.expression for found in self.outputs)

    @property
    def verdict(self) -> Verdict:
        """That of the worst output."""
        found = {each.verdict for each in self.outputs}
        return next(v for v in (Verdict.REFUSED, Verdict.APPROXIMATE, Verdict.EXACT) if v in found)


@dataclass(frozen=True, kw_only=True)
class NoFormula:
    """Why there is none."""

    reason: str


def default_engines() -> tuple[Engine, ...]:
    """In the order in which they are asked."""
    return (SparseRegression(), Operon())


def regress(
    graph: Graph,
    calibration: Numbers,
    *,
    tolerance: float,
    engines: Sequence[Engine] | None = None,
    guard: GuardBox | None = None,
    seed: int = 0,
) -> Formula | NoFormula:
    """A formula for a segment without opaque nodes, from its calibration rows [rows, variables]. `guard`: where it has
    to hold; by default the calibration's box with the usual margin."""
    if graph.opaque_operators:
        return NoFormula(reason=f"operators {', '.join(graph.opaque_operators)} cannot be asked")
    return regress_function(
        lambda x: run(graph, x).reshape(len(x), -1),
        calibration,
        tolerance=tolerance,
        engines=engines,
        guard=guard,
        seed=seed,
    )


def regress_function(
    oracle: Oracle,
    calibration: Numbers,
    *,
    tolerance: float,
    engines: Sequence[Engine] | None = None,
    guard: GuardBox | None = None,
    seed: int = 0,
) -> Formula | NoFormula:
    """The same for any function."""
    rows = np.unique(calibration.reshape(len(calibration), -1).astype(np.float64), axis=0)
    if rows.shape[1] > MAX_INPUTS:
        return NoFormula(reason=f"it has {rows.shape[1]} inputs; formulas are sought for at most {MAX_INPUTS}")
    if len(rows) < MIN_ROWS:
        return NoFormula(reason=f"{len(rows)} different calibration rows are too few; {MIN_ROWS} are needed")
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    inside = box_rows(guard or box(calibration.reshape(len(calibration), -1).astype(np.float32)), rng)
    known, asked = oracle(rows), oracle(inside)
    if not (np.isfinite(known).all() and np.isfinite(asked).all()):
        return NoFormula(reason="its outputs are not finite for all inputs inside of the guard")
    notes: dict[str, None] = {}
    found = []
    for index in range(known.shape[1]):
        kept = np.arange(len(rows)) % HELD_OUT_EVERY == 0
        seen = Problem(inputs=rows[~kept], target=known[~kept, index], seed=seed)
        unseen = Problem(inputs=rows[kept], target=known[kept, index])
        everywhere = Problem(inputs=inside, target=asked[:, index])
        best = _best(engines if engines is not None else default_engines(), seen, unseen, everywhere, tolerance, notes)
        if best is None:
            return NoFormula(reason=f"no engine proposed anything for output {index}; {'; '.join(notes) or 'all ran'}")
        if best.verdict is Verdict.REFUSED:
            return NoFormula(reason=f"output {index}: {best.reason}")
        found.append(best)
    return Formula(outputs=tuple(found), notes=tuple(notes))


def box_rows(guard: GuardBox, rng: np.random.Generator) -> Numbers:
    """Points of the box that a module answers in: all corners, points on its sides, and others inside."""
    lower, upper = guard.lower.astype(np.float64), guard.upper.astype(np.float64)
    corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))))
    points = rng.uniform(lower, upper, size=(BOX_ROWS, len(lower)))
    sides = points[: BOX_ROWS // 4]
    column = rng.integers(len(lower), size=len(sides))
    sides[np.arange(len(sides)), column] = np.where(rng.random(len(sides)) < 0.5, lower[column], upper[column])
    return np.concatenate([corners, points])


def _best(
    engines: Sequence[Engine],
    seen: Problem,
    unseen: Problem,
    everywhere: Problem,
    tolerance: float,
    notes: dict[str, None],
) -> Judgement | None:
    """The simplest exact formula; else the most accurate one within the tolerance; else the least bad refusal."""
    judged: list[Judgement] = []
    for engine in engines:
        obstacle = engine.obstacle()
        if obstacle is not None:
            notes[f"{engine.name} was not asked: {obstacle}"] = None
            continue
        try:
            proposed = engine.propose(seen)
        except EcompileError as error:
            notes[f"{engine.name} failed: {error.message}"] = None
            continue
        judged += [judge(c, seen, unseen, everywhere, tolerance) for c in _polished(proposed, seen)]
        exact = [j for j in judged if j.verdict is Verdict.EXACT]
        if exact:
            return min(exact, key=lambda j: (j.candidate.complexity, j.box_error))
    rank = [Verdict.APPROXIMATE, Verdict.REFUSED]
    return min(judged, key=lambda j: (rank.index(j.verdict), j.box_error, j.candidate.complexity), default=None)


def _polished(proposed: tuple[Candidate, ...], seen: Problem) -> tuple[Candidate, ...]:
    """The most accurate candidates, each refitted and with simple constants where these fit; then the front of all."""
    made: list[Candidate] = []
    for candidate in sorted(proposed, key=lambda c: rmse(c.expression, seen))[:REFITTED]:
        fitted = refitted(candidate.expression, seen)
        for expression in (fitted, snapped(fitted, seen)):
            made.append(Candidate(expression=expression, engine=candidate.engine))
    return pareto((*proposed, *made), seen)


def judge(candidate: Candidate, seen: Problem, unseen: Problem, everywhere: Problem, tolerance: float) -> Judgement:
    """Ordered checks; the first that fails is the reason."""
    scale = seen.scale
    fit = rmse(candidate.expression, seen)
    held_out, anywhere = _largest(candidate, unseen, scale), _largest(candidate, everywhere, scale)
    worst = max(held_out, anywhere)
    count = len(constants(candidate.expression))
    verdict = Verdict.EXACT if worst <= EXACT else Verdict.APPROXIMATE if worst <= tolerance else Verdict.REFUSED
    reason = f"the largest deviation is {worst:.1e} of half the range"
    if count * ROWS_PER_CONSTANT > len(seen.target):
        verdict, reason = Verdict.REFUSED, f"it has {count} constants for {len(seen.target)} rows"
    elif not np.isfinite(worst):
        verdict, reason = Verdict.REFUSED, "it is not finite inside of the guard"
    elif held_out > tolerance:
        reason = f"off by {held_out:.1e} on rows kept back, {fit:.1e} on those it was made from"
    elif anywhere > tolerance:
        reason = f"off by {anywhere:.1e} inside of the guard, {held_out:.1e} on calibration rows"
    return Judgement(
        candidate=candidate,
        verdict=verdict,
        fit_error=fit,
        held_out_error=held_out,
        box_error=anywhere,
        reason=reason,
    )


def _largest(candidate: Candidate, problem: Problem, scale: float) -> float:
    with np.errstate(all="ignore"):
        error = np.abs(evaluate(candidate.expression, problem.inputs) - problem.target) / scale
    return float(error.max()) if np.isfinite(error).all() else float("inf")
