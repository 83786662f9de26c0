"""What every engine of symbolic regression is: from numbers to candidates, or a reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .expression import Expression, Numbers, complexity, evaluate

MAX_INPUTS = 5
"""Variables. With more the search space outgrows any budget, and a formula would not be shorter than the network."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Rows to explain: `target` [rows] as a function of `inputs` [rows, variables], both float64 and finite."""

    inputs: Numbers
    target: Numbers
    seed: int = 0

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.target.shape != self.inputs.shape[:1]:
            raise ValueError(f"inputs {self.inputs.shape} and target {self.target.shape} do not fit")
        if not (np.isfinite(self.inputs).all() and np.isfinite(self.target).all()):
            raise ValueError("inputs and target must be finite")

    @property
    def scale(self) -> float:
        """What errors are relative to: half of the target's range; of a constant one, its size."""
        return float(np.ptp(self.target)) / 2 or float(np.abs(self.target).max()) or 1.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An expression that an engine proposes. Nothing is known about it but where it is from."""

    expression: Expression
    engine: str

    @property
    def complexity(self) -> int:
        return complexity(self.expression)


class Engine(Protocol):
    """One way to search. The same problem gives the same candidates."""

    @property
    def name(self) -> str: ...

    def obstacle(self) -> str | None:
        """Why it cannot run here, as the end of a sentence; None where it can."""

    def propose(self, problem: Problem) -> tuple[Candidate, ...]:
        """Candidates from simple to accurate; none where nothing is found. Called only without an obstacle.

        Raises EcompileError where the engine fails.
        """


def rmse(expression: Expression, problem: Problem) -> float:
    """Root of the mean squared error, relative to the problem's scale; infinite where a value is not finite."""
    with np.errstate(all="ignore"):
        error = evaluate(expression, problem.inputs) - problem.target
        found = float(np.sqrt(np.mean((error / problem.scale) ** 2)))
    return found if np.isfinite(found) else float("inf")


def pareto(candidates: tuple[Candidate, ...], problem: Problem) -> tuple[Candidate, ...]:
    """Those that no simpler or equal one beats in error on the problem's rows, from simple to accurate."""
    judged = sorted(((c.complexity, rmse(c.expression, problem), i, c) for i, c in enumerate(candidates)))
    front: list[Candidate] = []
    best = float("inf")
    for _, error, _, candidate in judged:
        if error < best:
            front.append(candidate)
            best = error
    return tuple(front)
