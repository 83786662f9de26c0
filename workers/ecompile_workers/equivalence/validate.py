"""Run a module against its original and judge it: an ordered list of checks, each with measured value and limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from ecompile_crds.hybridmodel import Equivalence
from numpy.typing import NDArray

from ..codegen.loader import CompiledFunction
from .inputs import at_least, non_finite, out_of_distribution
from .metrics import Comparison, clopper_pearson_upper, compare, row_delta

Rows = NDArray[np.float32]
Original = Callable[[Rows], Rows]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One criterion."""

    name: str
    passed: bool
    value: float
    limit: float

    def sentence(self) -> str:
        return f"{self.name} {self.value:.3g} (limit {self.limit:.3g})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that a validation found."""

    passed: bool
    reason: str
    test: Comparison | None
    ood: Comparison | None
    test_inputs: int
    ood_inputs: int
    synthetic_inputs: int
    guard_coverage: float
    """Share of test inputs that the module answers."""
    violation_bound: float
    """Upper bound, at the stated confidence, of the share of inputs with a relative error above the limit."""
    checks: tuple[Check, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def answers(module: CompiledFunction, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Outputs row by row, and which rows the module answered."""
    outputs = np.zeros((len(rows), module.outputs), dtype=np.float32)
    answered = np.zeros(len(rows), dtype=bool)
    for index in range(len(rows)):
        reason, y = module(rows[index : index + 1])
        if reason == 0:
            outputs[index], answered[index] = y[0], True
    return outputs, answered


def validate(
    module: CompiledFunction,
    original: Original,
    held_out: Rows,
    policy: Equivalence,
    *,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Outcome:
    """Judge `module` against `original` (rows -> outputs [rows, outputs]) under `policy`."""
    test, made = at_least(held_out, policy.test_inputs, seed=seed)
    progress("test inputs", 0.1)
    expected = original(test)
    outputs, answered = answers(module, test)
    progress("out-of-distribution inputs", 0.6)
    unlike = np.concatenate(list(out_of_distribution(held_out, policy.ood_inputs, seed=seed + 1).values()))
    unlike_outputs, unlike_answered = answers(module, unlike)
    unlike_expected = original(unlike)
    progress("judging", 0.9)
    _, accepted_bad = answers(module, non_finite(held_out))
    coverage = float(answered.mean())
    checks = [
        Check(
            name="non-finite inputs accepted", passed=not accepted_bad.any(), value=float(accepted_bad.sum()), limit=0.0
        ),
        Check(name="guard coverage", passed=coverage >= 0.5, value=coverage, limit=0.5),
    ]
    found = compare(expected[answered], outputs[answered]) if answered.any() else None
    unlike_found = None
    bound = 1.0
    if found is not None:
        over = int((row_delta(expected[answered], outputs[answered]) > policy.max_relative_error).sum())
        bound = clopper_pearson_upper(over, int(answered.sum()), policy.confidence)
        checks += _criteria("", found, policy)
    if unlike_answered.any():
        unlike_found = compare(unlike_expected[unlike_answered], unlike_outputs[unlike_answered])
        checks += _criteria("out-of-distribution ", unlike_found, policy)
    failed = next((c for c in checks if not c.passed), None)
    if failed is not None:
        reason = f"failed: {failed.sentence()}"
    else:
        assert found is not None
        reason = f"delta {found.delta:.1e}, r {found.correlation:.6f}, max deviation {found.max_deviation:.1e}"
    return Outcome(
        passed=failed is None,
        reason=reason,
        test=found,
        ood=unlike_found,
        test_inputs=len(test),
        ood_inputs=len(unlike),
        synthetic_inputs=made,
        guard_coverage=coverage,
        violation_bound=bound,
        checks=tuple(checks),
    )


def _criteria(prefix: str, found: Comparison, policy: Equivalence) -> list[Check]:
    return [
        Check(
            name=f"{prefix}delta",
            passed=found.delta <= policy.max_relative_error,
            value=found.delta,
            limit=policy.max_relative_error,
        ),
        Check(
            name=f"{prefix}correlation",
            passed=found.correlation >= policy.min_correlation,
            value=found.correlation,
            limit=policy.min_correlation,
        ),
        Check(
            name=f"{prefix}max deviation",
            passed=found.max_deviation <= policy.max_deviation,
            value=found.max_deviation,
            limit=policy.max_deviation,
        ),
    ]
