"""Sparse regression over monomials: solves polynomials exactly in milliseconds, and is therefore run first.

Sequentially thresholded least squares (Brunton, Proctor and Kutz, PNAS 113, 2016), then single terms are left out as
long as the error allows, and the coefficients of what is left are solved again in float64.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .engine import Candidate, Problem, pareto
from .expression import Binary, Constant, Expression, Numbers, Power, Sign, Variable

MAX_DEGREE = 5
ROWS_PER_TERM = 4
"""Fewer rows than this per monomial would fit anything."""
THRESHOLDS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""Shares of the target's norm below which a term is left out."""
EXACT = 1e-9
"""Relative error at which higher degrees are not tried."""
SLACK = 1.5
"""Leaving out a term may raise the error by this factor, or up to `EXACT`."""
ROUNDS = 20


@dataclass(frozen=True)
class SparseRegression:
    """Polynomials up to a degree."""

    max_degree: int = MAX_DEGREE

    @property
    def name(self) -> str:
        return "sparse"

    def obstacle(self) -> str | None:
        return None

    def propose(self, problem: Problem) -> tuple[Candidate, ...]:
        """One candidate per degree and threshold that is not beaten by a simpler one."""
        found: list[Candidate] = []
        for degree in range(self.max_degree + 1):
            powers = exponents(problem.inputs.shape[1], degree)
            if len(powers) * ROWS_PER_TERM > len(problem.target):
                break
            columns = np.stack([np.prod(problem.inputs**p, axis=1) for p in powers], axis=1)
            if not np.isfinite(columns).all():
                break
            best = np.inf
            for threshold in THRESHOLDS:
                weights = _pruned(columns, problem, _thresholded(columns, problem.target, threshold))
                best = min(best, _error(columns, problem, weights))
                found.append(Candidate(expression=polynomial(powers, weights), engine=self.name))
            if best < EXACT:
                break
        return pareto(tuple(found), problem)


def exponents(variables: int, degree: int) -> list[tuple[int, ...]]:
    """All monomials up to a degree, the constant first: exponents per variable."""
    return [
        tuple(chosen.count(v) for v in range(variables))
        for d in range(degree + 1)
        for chosen in itertools.combinations_with_replacement(range(variables), d)
    ]


def _solve(columns: Numbers, target: Numbers, active: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Numbers:
    """Least squares on the active columns, each scaled to norm 1; 0 elsewhere."""
    weights = np.zeros(columns.shape[1])
    if active.any():
        norms = np.linalg.norm(columns[:, active], axis=0)
        norms[norms == 0] = 1.0
        weights[active] = np.linalg.lstsq(columns[:, active] / norms, target, rcond=None)[0] / norms
    return weights


def _thresholded(columns: Numbers, target: Numbers, threshold: float) -> Numbers:
    """STLSQ: terms whose share of the target is below the threshold are left out, until none is."""
    active = np.ones(columns.shape[1], dtype=bool)
    norms, total = np.linalg.norm(columns, axis=0), max(1e-300, float(np.linalg.norm(target)))
    for _ in range(ROUNDS):
        weights = _solve(columns, target, active)
        kept = active & (np.abs(weights) * norms >= threshold * total)
        if (kept == active).all():
            break
        active = kept
    return _solve(columns, target, active)


def _error(columns: Numbers, problem: Problem, weights: Numbers) -> float:
    return float(np.sqrt(np.mean(((columns @ weights - problem.target) / problem.scale) ** 2)))


def _pruned(columns: Numbers, problem: Problem, weights: Numbers) -> Numbers:
    """Leave out the smallest term again and again, while the error stays within the slack."""
    limit = max(EXACT, SLACK * _error(columns, problem, weights))
    norms = np.linalg.norm(columns, axis=0)
    while np.count_nonzero(weights) > 1:
        size = np.where(weights != 0, np.abs(weights) * norms, np.inf)
        active = weights != 0
        active[int(size.argmin())] = False
        shorter = _solve(columns, problem.target, active)
        if _error(columns, problem, shorter) > limit:
            break
        weights = shorter
    return weights


def polynomial(powers: list[tuple[int, ...]], weights: Numbers) -> Expression:
    """The sum of all terms whose weight is not 0, in the order of `powers`."""
    terms = [_term(p, float(w)) for p, w in zip(powers, weights, strict=True) if w != 0.0]
    if not terms:
        return Constant(0.0)
    total = terms[0]
    for term in terms[1:]:
        total = Binary(Sign.ADD, total, term)
    return total


def _term(powers: tuple[int, ...], weight: float) -> Expression:
    product: Expression = Constant(weight)
    for index, power in enumerate(powers):
        if power:
            factor: Expression = Variable(index) if power == 1 else Power(Variable(index), power)
            product = Binary(Sign.MUL, product, factor)
    return product
