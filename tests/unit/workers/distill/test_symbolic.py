"""Symbolic regression: formulas that are found are right, and those that only look so are refused."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import Code, DeadlineError, ResourceError
from ecompile_workers.distill.symbolic import pysr as pysr_engine
from ecompile_workers.distill.symbolic.engine import Candidate, Engine, Problem, pareto, rmse
from ecompile_workers.distill.symbolic.expression import Constant, constants, evaluate
from ecompile_workers.distill.symbolic.operon import Operon
from ecompile_workers.distill.symbolic.parse import parse
from ecompile_workers.distill.symbolic.printing import to_graph, to_text
from ecompile_workers.distill.symbolic.pysr import PySR
from ecompile_workers.distill.symbolic.refit import refitted, simple_numbers, snapped
from ecompile_workers.distill.symbolic.search import Formula, NoFormula, Verdict, regress, regress_function
from ecompile_workers.distill.symbolic.sparse import SparseRegression, exponents
from ecompile_workers.ir.interpreter import run

from ..networks import make_graph

NAMES = {f"x{i}": i for i in range(5)}
SMALL = Operon(generations=12, population=300, max_length=20)
needs_operon = pytest.mark.skipif(importlib.util.find_spec("pyoperon") is None, reason="the extra symbolic is missing")


def rows(variables: int, count: int = 600, low: float = 0.5, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, size=(count, variables))


def oracle(*texts: str) -> Callable[[np.ndarray], np.ndarray]:
    found = [parse(text, NAMES) for text in texts]
    return lambda x: np.stack([evaluate(e, x) for e in found], axis=1)


def search(texts: list[str], variables: int, engines: list[Engine], **changes: float) -> Formula | NoFormula:
    return regress_function(
        oracle(*texts), rows(variables), tolerance=changes.get("tolerance", 1e-3), engines=engines, seed=1
    )


class Says:
    """An engine that proposes what it is told."""

    name = "says"

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def obstacle(self) -> str | None:
        return None

    def propose(self, problem: Problem) -> tuple[Candidate, ...]:
        return tuple(Candidate(expression=parse(t, NAMES), engine=self.name) for t in self.texts)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("3 * x0 * x1 - 0.5 * x2 ^ 2 + 2", 3),
        ("x0 ^ 3 - x0 * x1 ^ 2", 2),
        ("0.25 * x0 * x1 * x2 + x3 - 7 * x4", 5),
        ("x0 ^ 5 - 1.7 * x0", 1),
        ("4.25 + 0 * x0", 1),
        ("1e-7 * x0 * x1 + 2e-7", 2),
    ],
)
def test_sparse_regression_finds_polynomials_exactly(text: str, variables: int) -> None:
    found = search([text], variables, [SparseRegression()])
    assert isinstance(found, Formula), found
    assert found.verdict is Verdict.EXACT and found.outputs[0].box_error < 1e-9
    expected = len(parse(text, NAMES).__repr__())
    assert len(repr(found.expressions[0])) < 3 * expected, to_text(found.expressions[0])


def test_each_output_has_its_own_formula() -> None:
    found = search(["x0 + x1", "2 * x0 * x1"], 2, [SparseRegression()])
    assert isinstance(found, Formula)
    x = rows(2, 9)
    np.testing.assert_allclose(run(to_graph(found.expressions, 2), x), oracle("x0 + x1", "2 * x0 * x1")(x), rtol=1e-6)


def test_monomials_are_all_there() -> None:
    assert len(exponents(5, 4)) == 126 and exponents(2, 1) == [(0, 0), (1, 0), (0, 1)]


def test_sparse_regression_leaves_out_what_rows_cannot_tell() -> None:
    problem = Problem(inputs=rows(5, 40), target=rows(5, 40)[:, 0])
    assert max(len(c.expression.__repr__()) for c in SparseRegression().propose(problem)) < 2000


@pytest.mark.parametrize("seed", [0, 1])
def test_engines_give_the_same_candidates_again(seed: int) -> None:
    x = rows(2, 200)
    problem = Problem(inputs=x, target=np.sin(x[:, 0]) * x[:, 1], seed=seed)
    for engine in (SparseRegression(), SMALL):
        if engine.obstacle() is None:
            assert engine.propose(problem) == engine.propose(problem)


@needs_operon
def test_operon_finds_what_no_polynomial_is() -> None:
    found = search(["2.5 / x0 + 0.5 * x1"], 2, [SparseRegression(max_degree=2), SMALL])
    assert isinstance(found, Formula), found
    assert found.verdict is Verdict.EXACT and found.outputs[0].candidate.engine == "operon"
    assert set(np.abs(constants(found.expressions[0]))) <= {0.4, 0.5, 1.0, 2.0, 2.5, 5.0, 0.2}


def test_formula_that_holds_only_on_calibration_is_refused() -> None:
    """Right where calibration is, wrong in the rest of the box that a module would answer in."""
    x = np.concatenate([rows(1), rows(1, 2, 2.95, 3.0)])
    found = regress_function(lambda z: np.where(z < 2.5, z, z**4), x, tolerance=1e-3, engines=[Says("x0")], seed=0)
    assert isinstance(found, NoFormula) and "off by" in found.reason


def test_formula_that_was_made_for_its_rows_is_refused() -> None:
    class Memory(Says):
        def propose(self, problem: Problem) -> tuple[Candidate, ...]:
            terms = [f"{v!r} * x0 ^ 2" for v in problem.target[:40].tolist()]
            return (Candidate(expression=parse(" + ".join(terms), NAMES), engine="memory"),)

    found = regress_function(lambda z: np.sin(50 * z), rows(1, 200), tolerance=1e9, engines=[Memory()], seed=0)
    assert isinstance(found, NoFormula) and "constants for" in found.reason


def test_formula_that_is_not_finite_inside_of_the_guard_is_refused() -> None:
    found = regress_function(
        lambda z: z, rows(1), tolerance=10.0, engines=[Says("x0 + sqrt(log(x0 + x0))^2 - log(x0 + x0)")], seed=0
    )
    assert isinstance(found, NoFormula) and "not finite inside of the guard" in found.reason


def test_nearly_right_formula_is_not_called_exact() -> None:
    found = search(["sin(x0)"], 1, [Says("0.9999 * sin(x0)")])
    assert isinstance(found, Formula) and found.verdict is Verdict.EXACT  # refitted to it
    near = regress_function(
        lambda z: np.sin(z) + 1e-5 * np.cos(40 * z), rows(1), tolerance=1e-3, engines=[Says("sin(x0)")], seed=0
    )
    assert isinstance(near, Formula) and near.verdict is Verdict.APPROXIMATE


def test_segments_that_no_formula_is_sought_for() -> None:
    assert "6 inputs" in _reason(regress(make_graph([6, 4, 2]), rows(6), tolerance=1e-3))
    assert "too few" in _reason(regress(make_graph([2, 4, 2]), rows(2, 30), tolerance=1e-3))
    same = np.ones((500, 2))
    assert "1 different calibration rows" in _reason(regress(make_graph([2, 4, 2]), same, tolerance=1e-3))


def _reason(found: Formula | NoFormula) -> str:
    assert isinstance(found, NoFormula)
    return found.reason


def test_linear_segment_is_its_formula() -> None:
    graph = make_graph([3, 2])
    found = regress(graph, rows(3), tolerance=1e-3, engines=[SparseRegression()])
    assert isinstance(found, Formula) and found.verdict is Verdict.EXACT
    np.testing.assert_allclose(run(to_graph(found.expressions, 3), rows(3)), run(graph, rows(3)), rtol=1e-5)


def test_missing_engine_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = search(["x0 * x1"], 2, [SMALL, SparseRegression()])
    assert isinstance(found, Formula)
    assert found.notes == ("operon was not asked: pyoperon is not installed; install ecompile[symbolic]",)
    assert "pysr is not installed" in (PySR().obstacle() or "")


def test_constants_are_fitted_and_made_simple() -> None:
    x = rows(2)
    problem = Problem(inputs=x, target=2.5 * np.exp(-x[:, 0] / 3) + np.pi * x[:, 1])
    start = parse("2.4 * exp(-0.3 * x0) + 3.1 * x1 + 0.001", NAMES)
    found = snapped(refitted(start, problem), problem)
    assert rmse(found, problem) < 1e-12
    assert sorted(constants(found)) == [-1 / 3, 2.5, np.pi], to_text(found)


def test_refitting_never_makes_it_worse() -> None:
    x = rows(1)
    problem = Problem(inputs=x, target=np.log(x[:, 0]))
    for text in ("log(x0) + 0", "sqrt(x0 - 5)", "1 / (x0 - 1)", "exp(exp(exp(9 * x0)))"):
        start = parse(text, NAMES)
        before = rmse(start, problem)
        assert not rmse(refitted(start, problem), problem) > before * (1 + 1e-12)


def test_simple_numbers_come_simplest_first() -> None:
    assert simple_numbers(0.5001)[0] == 0.5 and simple_numbers(3.14159)[0] == np.pi
    assert simple_numbers(1e-5)[0] == 0.0 and simple_numbers(float("nan")) == []


def test_front_has_no_candidate_that_is_beaten() -> None:
    x = rows(1)
    problem = Problem(inputs=x, target=x[:, 0])
    made = [Candidate(expression=parse(t, NAMES), engine="a") for t in ("x0 + 0.1 + x0 * 0.1", "1", "x0", "x0 * 1.01")]
    assert [to_text(c.expression) for c in pareto(tuple(made), problem)] == ["x0"]
    assert rmse(Constant(float("nan")), problem) == float("inf")


def test_problems_are_checked() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Problem(inputs=np.zeros((3, 1)), target=np.zeros(4))
    with pytest.raises(ValueError, match="finite"):
        Problem(inputs=np.full((3, 1), np.nan), target=np.zeros(3))


FAKE = """
import os
class PySRRegressor:
    def __init__(self, **told):
        self.told = told
    def fit(self, x, y):
        assert self.told["deterministic"] and os.environ["PYTHON_JULIAPKG_OFFLINE"] == "yes"
        if os.environ.get("FAKE") == "crash":
            os._exit(139)
        if os.environ.get("FAKE") == "error":
            raise ImportError("could not find Julia")
        if os.environ.get("FAKE") == "hang":
            import time; time.sleep(60)
    @property
    def equations_(self):
        class Table:
            def itertuples(self):
                from types import SimpleNamespace as Row
                return [Row(complexity=5, equation="sin(x0) * 2.0"), Row(complexity=1, equation="x1"),
                        Row(complexity=9, equation="cond(x0, x1)")]
        return Table()
"""


def fake(tmp_path: Path, behaviour: str) -> PySR:
    """PySR with a stand-in for the package: what is tested is the process around it."""
    import os

    (tmp_path / "pysr.py").write_text(FAKE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FAKE": behaviour}
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return PySR(python=str(python), environment=environment)


def test_pysr_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    engine = fake(tmp_path, "")
    assert engine.obstacle() is None
    found = engine.propose(Problem(inputs=rows(2, 20), target=rows(2, 20)[:, 0]))
    assert [to_text(c.expression) for c in found] == ["x1", "(sin(x0) * 2.0)"]


@pytest.mark.parametrize(("behaviour", "text"), [("crash", "status 139"), ("error", "could not find Julia")])
def test_pysr_that_fails_its_probe_is_refused(tmp_path: Path, behaviour: str, text: str) -> None:
    engine = fake(tmp_path, behaviour)
    assert text in (engine.obstacle() or "")
    found = search(["x0 * x1"], 2, [engine, SparseRegression()])
    assert isinstance(found, Formula) and text in found.notes[0]
    with pytest.raises(ResourceError):
        engine.propose(Problem(inputs=rows(1, 9), target=rows(1, 9)[:, 0]))


def test_pysr_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysr_engine, "PROBE_SECONDS", 2.0)
    engine = fake(tmp_path, "hang")
    assert "did not end in 2 s" in (engine.obstacle() or "")
    monkeypatch.setattr(pysr_engine, "SEARCH_SECONDS", 2.0)
    with pytest.raises(DeadlineError) as caught:
        engine.propose(Problem(inputs=rows(1, 9), target=rows(1, 9)[:, 0]))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
