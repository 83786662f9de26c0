"""Whether a module answers one group worse."""

from __future__ import annotations

import numpy as np
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.hybridmodel import Equivalence
from ecompile_workers.equivalence.groups import by_group
from ecompile_workers.equivalence.report import Report, Subject
from ecompile_workers.equivalence.validate import Outcome, validate

from .test_validate import BOX, ROWS, Module, Rows, original

GROUPS = np.where(ROWS[:, 0] > 0, "up", "down")
POLICY = Equivalence.model_validate({"fairness": {"groups": ["up", "down"], "maxGap": 0.05}, "maxDeviation": 1e6})


def worse_for_up(x: Rows) -> Rows:
    """A tenth of the answers to group `up` are wrong by half."""
    y = original(x)
    return y * np.float32(1.5) if x[0, 0] > 0 and x[0, 1] > 1.28 else y


def judge(module: Module, *, labels: Rows | None = None) -> Outcome:
    return validate(module, original, ROWS, POLICY, guard=BOX, groups=GROUPS, labels=labels)  # type: ignore[arg-type]  # a stand-in


def check(outcome: Outcome, name: str) -> tuple[bool, float]:
    return next((c.passed, c.value) for c in outcome.checks if c.name == name)


def test_module_that_is_worse_for_one_group_fails() -> None:
    outcome = judge(Module(worse_for_up))
    passed, gap = check(outcome, "group gap")
    rows = GROUPS == "up"
    assert not passed and gap == pytest.approx(float((ROWS[rows, 1] > 1.28).mean()))


def test_faithful_module_has_no_gap_and_the_report_tells() -> None:
    outcome = judge(Module(), labels=original(ROWS).argmax(axis=1))
    assert check(outcome, "group gap") == (True, 0.0) and check(outcome, "group error gap widened by") == (True, 0.0)
    subject = Subject(
        model="m", segment="s", attempt=1, bundle_digest="d", held_out="h", module_seconds=1e-6, neural_seconds=2e-6
    )
    assert "up" in Report(subject=subject, outcome=outcome).to_text().split("group  ")[1]


def test_gap_of_the_network_itself_is_not_the_modules() -> None:
    """Labels that the network gets wrong in one group: nothing is widened."""
    labels = original(ROWS).argmax(axis=1)
    labels = np.where(GROUPS == "up", (labels + 1) % 3, labels)
    found = judge(Module(), labels=labels).groups
    assert found is not None and found.widened == 0.0
    assert [rate.neural_error for rate in found.groups] == [1.0, 0.0]


def test_group_without_rows_is_told() -> None:
    with pytest.raises(DataError, match="no answered row of the data is in group 'left'"):
        by_group(original(ROWS), original(ROWS), GROUPS, wanted=["left", "up"], limit=1e-3)
