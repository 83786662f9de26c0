"""PySR: a search in Julia (Cranmer, arXiv:2305.01582). Runs in a process of its own, and only after a probe has.

Julia may be missing, may want to download packages, or may take the process down with it: so it is asked first, in a
subprocess that may not go to the network, with a search so small that it takes a second.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ecompile_crds.errors import Code, DeadlineError, ResourceError

from .engine import Candidate, Problem
from .parse import ParseError, parse

PROBE_SECONDS = 300.0
"""The first start of Julia compiles for minutes."""
SEARCH_SECONDS = 3600.0
SCRIPT = """
import json, sys
import numpy as np
from pysr import PySRRegressor
data, told = np.load(sys.argv[1]), json.loads(sys.argv[2])
search = PySRRegressor(
    binary_operators=["+", "-", "*", "/"], unary_operators=["sin", "cos", "exp", "log", "sqrt", "tanh"],
    niterations=told["iterations"], populations=told["populations"], population_size=told["size"], maxsize=30,
    precision=64, deterministic=True, parallelism="serial", random_state=told["seed"], progress=False, verbosity=0,
    temp_equation_file=True,
)
search.fit(data["inputs"], data["target"])
rows = [[int(r.complexity), str(r.equation)] for r in search.equations_.itertuples()]
print("\\nfound " + json.dumps(rows))
"""


@dataclass(frozen=True)
class PySR:
    """Budget in iterations; the same seed gives the same candidates."""

    iterations: int = 40
    populations: int = 8
    population_size: int = 33
    python: str = sys.executable
    """The interpreter that has PySR."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    _probed: list[str | None] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        return "pysr"

    def obstacle(self) -> str | None:
        """The answer of the probe, which is run once."""
        if not self._probed:
            self._probed.append(self._probe())
        return self._probed[0]

    def _probe(self) -> str | None:
        if self.python == sys.executable and importlib.util.find_spec("pysr") is None:
            return "pysr is not installed; install ecompile[pysr] and Julia"
        line = np.linspace(0.0, 1.0, 16)
        tiny = Problem(inputs=line[:, None], target=2.0 * line)
        small = PySR(1, 1, 12, python=self.python, environment=self.environment)
        try:
            small._search(tiny, PROBE_SECONDS)
        except (ResourceError, DeadlineError) as error:
            return f"its probe failed: {error.message}"
        return None

    def propose(self, problem: Problem) -> tuple[Candidate, ...]:
        """The hall of fame, from simple to accurate.

        Raises ResourceError where the process fails, DeadlineError where it does not end.
        """
        variables = {f"x{index}": index for index in range(problem.inputs.shape[1])}
        found = []
        for _, text in sorted(self._search(problem, SEARCH_SECONDS)):
            try:
                found.append(Candidate(expression=parse(text, variables), engine=self.name))
            except ParseError:
                continue  # the others are whole
        return tuple(found)

    def _search(self, problem: Problem, seconds: float) -> list[tuple[int, str]]:
        """(complexity, equation) of each equation that a process of its own finds."""
        told = {
            "iterations": self.iterations,
            "populations": self.populations,
            "size": self.population_size,
            "seed": problem.seed,
        }
        environment = {**self.environment, "PYTHON_JULIAPKG_OFFLINE": "yes"}
        with tempfile.TemporaryDirectory(prefix="ecompile-") as folder:
            path = Path(folder) / "rows.npz"
            np.savez(path, inputs=problem.inputs, target=problem.target)
            command = [self.python, "-c", SCRIPT, str(path), json.dumps(told)]
            try:
                done = subprocess.run(
                    command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise DeadlineError(Code.DEADLINE_EXCEEDED, f"PySR did not end in {seconds:.0f} s.") from error
            except OSError as error:
                raise ResourceError(Code.COMPILER_MISSING, f"PySR cannot be started: {error}.") from error
        answer = next((x for x in reversed(done.stdout.splitlines()) if x.startswith("found ")), None)
        if done.returncode != 0 or answer is None:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ResourceError(Code.COMPILER_FAILED, f"PySR ended with status {done.returncode}: {last}")
        return [(int(complexity), str(equation)) for complexity, equation in json.loads(answer.removeprefix("found "))]
