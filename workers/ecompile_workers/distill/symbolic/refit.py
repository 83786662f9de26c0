"""Constants of a candidate: fitted again in float64, then rounded to simple numbers where that costs nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy.optimize import least_squares

from .engine import Problem, rmse
from .expression import Expression, Numbers, constants, evaluate, simplified, with_constants

MAX_CONSTANTS = 12
EVALUATIONS = 200
SNAP_EVALUATIONS = 30
FAR = 1e6
"""Stands for a residual that is not finite."""
MAX_DENOMINATOR = 12
NEAR = 1e-3
"""Relative distance at which a simple number is tried."""
SLACK = 1.05
"""Factor by which a simple number may raise the error."""
ROUNDING = 1e-10
"""Error, relative to the scale, that is rounding and not a worse fit."""


def refitted(expression: Expression, problem: Problem) -> Expression:
    """The same expression with constants that fit better, never worse, simplified."""
    if not 0 < len(constants(expression)) <= min(MAX_CONSTANTS, len(problem.target)):
        return simplified(expression)
    better = _fitted(expression, problem, frozenset(), EVALUATIONS)
    return simplified(better if rmse(better, problem) < rmse(expression, problem) else expression)


def snapped(expression: Expression, problem: Problem) -> Expression:
    """Constants replaced, one by one, by 0, 1, or a near fraction or one times pi, while the others make up for it.

    What is kept raises the error by 5 % at most. Constants that stand for one another, as in a * (b * x), become one.
    """
    count = len(constants(expression))
    if count > MAX_CONSTANTS:
        return expression
    current, fixed = expression, frozenset[int]()
    limit = max(ROUNDING, SLACK * rmse(expression, problem))
    for index in range(count):
        value = constants(current)[index]
        for simple in dict.fromkeys((0.0, 1.0, *simple_numbers(value))):
            values = constants(current)
            values[index] = simple
            tried = _fitted(with_constants(current, values), problem, fixed | {index}, SNAP_EVALUATIONS)
            if rmse(tried, problem) <= limit:
                current, fixed = tried, fixed | {index}
                break
    return simplified(current)


def _fitted(expression: Expression, problem: Problem, fixed: frozenset[int], evaluations: int) -> Expression:
    """Least squares in float64 over the constants that are not fixed (by their place in `constants`)."""
    values = np.array(constants(expression))
    free = [index for index in range(len(values)) if index not in fixed]
    if not free:
        return expression

    def at(found: Numbers) -> Expression:
        told = values.copy()
        told[free] = found
        return with_constants(expression, told.tolist())

    def residuals(found: Numbers) -> Numbers:
        with np.errstate(all="ignore"):
            error = (evaluate(at(found), problem.inputs) - problem.target) / problem.scale
        return np.clip(np.nan_to_num(error, nan=FAR), -FAR, FAR)

    start = values[free]
    if not np.isfinite(start).all():
        return expression
    size = np.maximum(np.abs(start), 1e-3)
    solved = least_squares(residuals, start, x_scale=size, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=evaluations)
    return at(solved.x)


def simple_numbers(value: float) -> list[float]:
    """Simple numbers near a value, the simplest first."""
    if not np.isfinite(value):
        return []
    found: dict[float, int] = {0.0: 0} if abs(value) < NEAR else {}
    for factor, cost in ((1.0, 0), (np.pi, 3)):
        for denominator in range(1, MAX_DENOMINATOR + 1):
            fraction = Fraction(round(value / factor * denominator), denominator)
            number = float(fraction) * factor
            if number and abs(number - value) <= NEAR * abs(value):
                found.setdefault(number, cost + fraction.denominator + len(str(abs(fraction.numerator))))
    return sorted(found, key=lambda number: (found[number], abs(number - value)))
