"""Run a module against its original and judge it: an ordered list of checks, each with measured value and limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from ecompile_crds.hybridmodel import Equivalence
from numpy.typing import NDArray

from ..codegen.abi import GuardBox
from ..codegen.loader import CompiledFunction
from .classes import ClassAgreement, per_class
from .groups import GroupFindings, by_group
from .inputs import at_least, non_finite, out_of_distribution
from .metrics import Comparison, clopper_pearson_upper, compare, row_delta
from .probes import DecisionFindings, decision_probes, guard_probes

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
class Family:
    """What a module did on one kind of inputs."""

    name: str
    rows: int
    answered: int
    found: Comparison | None
    """Of the rows that were answered; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class GuardFindings:
    """What was found on the sides of the guard's box."""

    outside: int
    """Rows just outside."""
    outside_answered: int
    """Of these: violations."""
    inside: Family


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
    confidence: float = 0.95
    checks: tuple[Check, ...] = field(default=())
    classes: tuple[ClassAgreement, ...] = field(default=())
    families: tuple[Family, ...] = field(default=())
    """Out-of-distribution inputs by kind."""
    guard: GuardFindings | None = None
    """None where the guard is not told."""
    decisions: DecisionFindings | None = None
    """None where there are no classes."""
    groups: GroupFindings | None = None
    """None where no groups are asked about."""

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
    guard: GuardBox | None = None,
    integers: Sequence[slice] = (),
    groups: NDArray[np.str_] | None = None,
    labels: NDArray[Any] | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda step, fraction: None,
) -> Outcome:
    """Judge `module` against `original` (rows -> outputs [rows, outputs]) under `policy`.

    `guard`: the module's own. `integers`: columns of the inputs that hold whole numbers. `groups` (where
    `policy.fairness` names some) and `labels`: of the held-out rows, [rows].
    Raises DataError where a group has no row that the module answers.
    """
    test, made = at_least(held_out, policy.test_inputs, seed=seed, integers=integers)
    progress("test inputs", 0.1)
    expected = original(test)
    outputs, answered = answers(module, test)
    progress("out-of-distribution inputs", 0.5)
    unlike = out_of_distribution(held_out, policy.ood_inputs, seed=seed + 1, integers=integers)
    families, unlike_found = _families(module, original, unlike)
    progress("probes", 0.7)
    borders = _guard_borders(module, original, held_out, guard, seed=seed + 2)
    decisions = decision_probes(
        lambda x: answers(module, x), original, held_out, tolerance=policy.max_deviation, seed=seed + 3
    )
    progress("judging", 0.9)
    _, accepted_bad = answers(module, non_finite(held_out))
    coverage = float(answered.mean())
    found = compare(expected[answered], outputs[answered]) if answered.any() else None
    bound = 1.0
    if found is not None:
        over = int((row_delta(expected[answered], outputs[answered]) > policy.max_relative_error).sum())
        bound = clopper_pearson_upper(over, int(answered.sum()), policy.confidence)
    checks = [
        Check(
            name="non-finite inputs accepted", passed=not accepted_bad.any(), value=float(accepted_bad.sum()), limit=0.0
        ),
        Check(name="guard coverage", passed=coverage >= 0.5, value=coverage, limit=0.5),
        *_criteria("", found, policy),
        *_criteria("out-of-distribution ", unlike_found, policy),
        *_border_checks(borders, decisions, policy),
    ]
    compared = None
    if policy.fairness is not None and groups is not None:
        real = np.flatnonzero(answered[: len(held_out)])
        compared = by_group(
            expected[real],
            outputs[real],
            groups[real],
            wanted=policy.fairness.groups,
            limit=policy.max_relative_error,
            labels=labels[real] if labels is not None else None,
        )
        checks += _group_checks(compared, policy.fairness.max_gap)
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
        ood_inputs=sum(family.rows for family in families),
        synthetic_inputs=made,
        guard_coverage=coverage,
        violation_bound=bound,
        confidence=policy.confidence,
        checks=tuple(checks),
        classes=per_class(expected[answered], outputs[answered], confidence=policy.confidence),
        families=families,
        guard=borders,
        decisions=decisions,
        groups=compared,
    )


def _group_checks(found: GroupFindings, limit: float) -> list[Check]:
    checks = [Check(name="group gap", passed=found.gap <= limit, value=found.gap, limit=limit)]
    if found.widened is not None:
        widened = found.widened
        checks.append(Check(name="group error gap widened by", passed=widened <= limit, value=widened, limit=limit))
    return checks


def _families(
    module: CompiledFunction, original: Original, rows: Mapping[str, Rows]
) -> tuple[tuple[Family, ...], Comparison | None]:
    """Each kind of inputs by itself, and all that were answered together."""
    together = np.concatenate(list(rows.values()))
    outputs, answered = answers(module, together)
    expected = original(together)
    ends = np.cumsum([len(values) for values in rows.values()])
    parts = [slice(end - len(values), end) for end, values in zip(ends, rows.values(), strict=True)]
    families = tuple(
        _family(name, expected[part], outputs[part], answered[part]) for name, part in zip(rows, parts, strict=True)
    )
    return families, compare(expected[answered], outputs[answered]) if answered.any() else None


def _family(name: str, expected: Rows, outputs: Rows, answered: NDArray[np.bool_]) -> Family:
    found = compare(expected[answered], outputs[answered]) if answered.any() else None
    return Family(name=name, rows=len(expected), answered=int(answered.sum()), found=found)


def _guard_borders(
    module: CompiledFunction, original: Original, rows: Rows, guard: GuardBox | None, *, seed: int
) -> GuardFindings | None:
    if guard is None:
        return None
    probes = guard_probes(rows, guard, seed=seed)
    outputs, answered = answers(module, probes.inside)
    _, accepted = answers(module, probes.outside)
    return GuardFindings(
        outside=len(probes.outside),
        outside_answered=int(accepted.sum()),
        inside=_family("guard border", original(probes.inside), outputs, answered),
    )


def _border_checks(
    borders: GuardFindings | None, decisions: DecisionFindings | None, policy: Equivalence
) -> list[Check]:
    checks = []
    if borders is not None:
        accepted = float(borders.outside_answered)
        checks.append(Check(name="inputs outside the guard answered", passed=accepted == 0, value=accepted, limit=0.0))
        checks += _criteria("guard border ", borders.inside.found, policy)
    if decisions is not None:
        flips = float(decisions.flips)
        checks.append(Check(name="decisions flipped near a border", passed=flips == 0, value=flips, limit=0.0))
    return checks


def _criteria(prefix: str, found: Comparison | None, policy: Equivalence) -> list[Check]:
    """None where no row was answered: then the guard's coverage tells."""
    if found is None:
        return []
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
