"""Operon: genetic programming with local search of constants (Burlacu, Kronberger and Kommenda, GECCO 2020).

Comes with the extra `symbolic`. Deterministic: the budget is a number of generations, never a time.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, InternalError

from .engine import Candidate, Problem
from .parse import ParseError, parse

SYMBOLS = "add,sub,mul,div,sin,cos,exp,log,sqrt,square,tanh,constant,variable"
MAX_ROWS = 1000
"""More rows make the search slower and its answer no better; the guards see all of them."""
DIGITS = 17


@dataclass(frozen=True)
class Operon:
    """Budget: 30 generations of 1,000 on 1,000 rows take about 5 s of one core."""

    generations: int = 30
    population: int = 1000
    max_length: int = 30
    max_depth: int = 8
    local_steps: int = 8
    """Of Levenberg-Marquardt per individual."""

    @property
    def name(self) -> str:
        return "operon"

    def obstacle(self) -> str | None:
        if importlib.util.find_spec("pyoperon") is None:
            return "pyoperon is not installed; install ecompile[symbolic]"
        return None

    def propose(self, problem: Problem) -> tuple[Candidate, ...]:
        """The Pareto front of error and length, from short to long."""
        from pyoperon.sklearn import SymbolicRegressor

        chosen = np.arange(len(problem.target))
        if len(chosen) > MAX_ROWS:
            chosen = np.sort(np.random.default_rng(problem.seed).choice(chosen, MAX_ROWS, replace=False))
        search = SymbolicRegressor(
            allowed_symbols=SYMBOLS,
            objectives=["r2", "length"],
            optimizer_iterations=self.local_steps,
            population_size=self.population,
            pool_size=self.population,
            generations=self.generations,
            max_evaluations=2**31 - 1,
            max_length=self.max_length,
            max_depth=self.max_depth,
            epsilon=1e-12,
            n_threads=1,
            random_state=problem.seed,
        )
        try:
            search.fit(problem.inputs[chosen], problem.target[chosen] / problem.scale)
        except (RuntimeError, ValueError) as error:
            raise InternalError(Code.INTERNAL, f"Operon failed: {error}.") from error
        variables = {f"X{index + 1}": index for index in range(problem.inputs.shape[1])}
        return _candidates(search, variables, problem.scale, self.name)


def _candidates(search: Any, variables: dict[str, int], scale: float, name: str) -> tuple[Candidate, ...]:
    """What of the front is an expression that we have, brought back to the target's scale."""
    found = []
    for model in sorted(search.pareto_front_, key=lambda m: (m["length"], m["mean_squared_error"])):
        text = search.get_model_string(model["tree"], DIGITS)
        try:
            found.append(Candidate(expression=parse(f"{scale!r} * ({text})", variables), engine=name))
        except ParseError:
            continue  # such as a division by a constant that became infinite; the others are whole
    return tuple(found)
