"""The report of a validation: one document, as JSON, as text, and as a page (`page.py`). Judges nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .validate import Check, Family, Outcome

SCHEMA_VERSION = 1
SHOWN_CLASSES = 20
"""Rows of the table of classes in text; those with the lowest agreement."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was validated, and with what."""

    model: str
    segment: str
    attempt: int
    bundle_digest: str
    held_out: str
    module_seconds: float
    """Per row, measured."""
    neural_seconds: float

    @property
    def speedup(self) -> float:
        return self.neural_seconds / self.module_seconds


@dataclass(frozen=True, kw_only=True)
class Report:
    """A validation that can be shown."""

    subject: Subject
    outcome: Outcome

    @property
    def title(self) -> str:
        verdict = "equivalent" if self.outcome.passed else "not equivalent"
        return f"{self.subject.model}, {self.subject.segment}: {verdict}"

    def document(self) -> dict[str, Any]:
        """As JSON values; numbers that JSON does not have are the texts inf, -inf and nan."""
        subject = self.subject
        found: dict[str, Any] = _plain(self.outcome.to_json())
        return {
            "schemaVersion": SCHEMA_VERSION,
            "model": subject.model,
            "segment": subject.segment,
            "attempt": subject.attempt,
            "bundleDigest": subject.bundle_digest,
            "heldOut": subject.held_out,
            "speedup": round(subject.speedup, 2),
            "moduleSeconds": subject.module_seconds,
            "neuralSeconds": subject.neural_seconds,
            **found,
        }

    def to_json(self) -> str:
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def to_text(self) -> str:
        """For a terminal, at most 100 columns where names are short."""
        outcome, subject = self.outcome, self.subject
        lines = [
            self.title,
            "=" * len(self.title),
            outcome.reason,
            "",
            f"bundle    {subject.bundle_digest}",
            f"held out  {subject.held_out}",
            f"latency   {microseconds(subject.module_seconds)} against {microseconds(subject.neural_seconds)} "
            f"of the original: {subject.speedup:.2f}x",
            "",
            *table([["check", "value", "limit", ""], *(check_row(check) for check in outcome.checks)]),
            "",
            *table([["inputs", "rows", "answered", "delta", "max delta", "r", "max deviation"], *self.family_rows()]),
            "",
            *self.sentences(),
        ]
        if outcome.groups is not None:
            lines += ["", *table([["group", "rows", "differing", "error", "of the network"], *self.group_rows()])]
        if outcome.classes:
            lines += ["", *table([["class", "rows", "agreement", "disagreement"], *self.class_rows()])]
            if len(outcome.classes) > SHOWN_CLASSES:
                lines.append(f"and {len(outcome.classes) - SHOWN_CLASSES} classes with no lower agreement")
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def group_rows(self) -> list[list[str]]:
        """Cells per group."""

        def share(value: float | None) -> str:
            return "-" if value is None else percent(value)

        groups = self.outcome.groups.groups if self.outcome.groups is not None else ()
        return [[g.group, str(g.rows), percent(g.differing), share(g.error), share(g.neural_error)] for g in groups]

    def class_rows(self) -> list[list[str]]:
        """Cells per class, by index: of those with the lowest agreement, then with the widest bound."""
        ranked = sorted(self.outcome.classes, key=lambda c: (c.agreement, -c.disagreement_bound, c.index))
        return [
            [str(c.index), str(c.rows), percent(c.agreement), bound(c.disagreement_bound)]
            for c in sorted(ranked[:SHOWN_CLASSES], key=lambda c: c.index)
        ]

    def family_rows(self) -> list[list[str]]:
        """Cells per kind of inputs."""
        outcome = self.outcome
        answered = round(outcome.guard_coverage * outcome.test_inputs)
        test = Family(name="held out", rows=outcome.test_inputs, answered=answered, found=outcome.test)
        families = [test, *outcome.families]
        if outcome.guard is not None:
            families.append(outcome.guard.inside)
        return [_family_row(family) for family in families]

    def sentences(self) -> list[str]:
        """What else there is to say, a sentence each."""
        outcome = self.outcome
        said = [
            f"At {outcome.confidence:.0%} confidence, {bound(outcome.violation_bound)} of inputs like these "
            "exceed the limit of delta.",
            "Inputs with values that are not finite are refused."
            if outcome.checks and outcome.checks[0].passed
            else "Inputs with values that are not finite are answered, which must not be.",
        ]
        if outcome.synthetic_inputs:
            said.append(f"{outcome.synthetic_inputs} of the held-out inputs were made from others by small noise.")
        if outcome.guard is not None:
            refused = outcome.guard.outside - outcome.guard.outside_answered
            said.append(f"One float32 step outside the guard, {refused} of {outcome.guard.outside} inputs are refused.")
        if outcome.decisions is not None:
            d = outcome.decisions
            said.append(
                f"Beside {d.pairs} borders between classes, {d.agreed} of {d.probes} decisions agree; {d.excused} "
                f"differ within the tolerance, {d.flips} beyond it. The module's own border is at most "
                f"{d.border_shift:.1e} of the way between two inputs from the original's."
            )
        return said


def check_row(check: Check) -> list[str]:
    """Cells: name, value, limit, verdict."""
    return [check.name, number(check.value), number(check.limit), "pass" if check.passed else "FAIL"]


def _family_row(family: Family) -> list[str]:
    cells = [family.name, str(family.rows), str(family.answered)]
    if family.found is None:
        return [*cells, "-", "-", "-", "-"]
    f = family.found
    return [*cells, number(f.delta), number(f.delta_max), f"{f.correlation:.6f}", number(f.max_deviation)]


def table(rows: list[list[str]]) -> list[str]:
    """Columns: the first to the left, the others to the right; a line below the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: list[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([row[0].ljust(len(first)), *others])

    lines = [line(row) for row in rows]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]


def number(value: float) -> str:
    """Short: 3 significant digits; whole numbers as they are."""
    if not math.isfinite(value):
        return str(value)
    return str(int(value)) if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as percent, never rounded up to all of it."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.2f} %"


def bound(share: float) -> str:
    """An upper bound as percent."""
    return f"<= {100 * share:.2g} %"


def microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} us" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def _plain(value: Any) -> Any:
    """The same without floats that JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
