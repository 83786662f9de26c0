"""Validation: probes find modules that are wrong at borders, and the report says so in three forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from ecompile_crds.hybridmodel import Equivalence
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.equivalence.classes import per_class
from ecompile_workers.equivalence.metrics import clopper_pearson_upper
from ecompile_workers.equivalence.page import to_html
from ecompile_workers.equivalence.probes import decision_probes, guard_probes
from ecompile_workers.equivalence.report import Report, Subject
from ecompile_workers.equivalence.validate import Outcome, validate

from ..networks import make_graph

Rows = Any
ROWS = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
GRAPH = make_graph([8, 16, 3])
BOX = GuardBox(lower=ROWS.min(axis=0) - 0.5, upper=ROWS.max(axis=0) + 0.5)


def original(x: Rows) -> Rows:
    first, second = GRAPH.nodes[0].constants, GRAPH.nodes[2].constants
    hidden = np.maximum(x @ first["weight"] + first["bias"], 0)
    return (hidden @ second["weight"] + second["bias"]).astype(np.float32)


class Module:
    """Answers like a compiled module: one row at a time, inside of its box."""

    outputs = 3

    def __init__(self, function: Callable[[Rows], Rows] = original, box: GuardBox = BOX) -> None:
        self.function, self.box = function, box

    def __call__(self, x: Rows) -> tuple[int, Rows]:
        inside = bool(((x >= self.box.lower) & (x <= self.box.upper)).all())
        return (0 if inside else 1), self.function(x) if inside else np.zeros((1, 3), np.float32)


def judge(module: Module) -> Outcome:
    return validate(module, original, ROWS, Equivalence(), guard=BOX)  # type: ignore[arg-type]  # a stand-in


def failures(outcome: Outcome) -> list[str]:
    return [check.name for check in outcome.checks if not check.passed]


def test_right_module_passes_every_check() -> None:
    outcome = judge(Module())
    assert outcome.passed and failures(outcome) == []
    assert outcome.guard is not None and outcome.guard.outside == 16 and outcome.guard.outside_answered == 0
    assert outcome.guard.inside.answered == outcome.guard.inside.rows == 16
    assert outcome.decisions is not None and outcome.decisions.pairs == 48
    assert outcome.decisions.agreed == outcome.decisions.probes and outcome.decisions.border_shift < 1e-4
    assert {family.name for family in outcome.families} == {"noise", "scaling", "interpolation", "corruption", "far"}


def test_guard_that_is_too_wide_by_one_step_is_found() -> None:
    wider = GuardBox(lower=np.nextafter(BOX.lower, np.float32(-np.inf)), upper=BOX.upper)
    outcome = judge(Module(box=wider))
    assert failures(outcome) == ["inputs outside the guard answered"]
    assert outcome.guard is not None and outcome.guard.outside_answered == 8


def test_module_that_is_wrong_at_the_side_of_its_guard_is_found() -> None:
    def wrong(x: Rows) -> Rows:
        return original(x) + np.float32(x[0, 2] >= BOX.upper[2])

    assert "guard border max deviation" in failures(judge(Module(wrong)))


def test_module_whose_decisions_flip_near_a_border_is_found() -> None:
    def flatter(x: Rows) -> Rows:
        """Right about the second and third class, slow to name the first one."""
        y = original(x)
        top = np.sort(y, axis=1)
        close = (y.argmax(axis=1) == 0) & (top[:, -1] - top[:, -2] < 0.05)
        return np.where(close[:, None], np.roll(y, 1, axis=1), y)

    outcome = judge(Module(flatter))
    assert "decisions flipped near a border" in failures(outcome)
    assert outcome.decisions is not None and outcome.decisions.border_shift > 1e-3


def test_rounding_at_a_border_is_excused() -> None:
    rng = np.random.default_rng(0)
    found = decision_probes(
        lambda x: (original(x) + rng.normal(size=(len(x), 3)).astype(np.float32) * 1e-5, np.ones(len(x), bool)),
        lambda x: original(x) * np.float32(1e-3),
        ROWS,
        tolerance=1e-1,
        seed=0,
    )
    assert found is not None and found.flips == 0


def test_one_output_has_no_decisions_and_no_classes() -> None:
    one = lambda x: original(x)[:, :1]  # noqa: E731  # short
    assert decision_probes(lambda x: (one(x), np.ones(len(x), bool)), one, ROWS, tolerance=1e-4, seed=0) is None
    assert per_class(np.zeros((3, 1)), np.zeros((3, 1)), confidence=0.95) == ()


def test_guard_probes_stand_on_and_beyond_each_side() -> None:
    probes = guard_probes(ROWS, BOX, seed=0)
    inside = (probes.inside >= BOX.lower) & (probes.inside <= BOX.upper)
    outside = (probes.outside >= BOX.lower) & (probes.outside <= BOX.upper)
    assert inside.all() and len(probes.inside) == 16
    assert (~outside).sum(axis=1).tolist() == [1] * 16
    limit = np.float32(np.finfo(np.float32).max)
    widest = GuardBox(lower=np.full(8, -limit), upper=np.full(8, limit))
    assert len(guard_probes(ROWS, widest, seed=0).outside) == 0


def test_bounds_per_class_are_those_of_clopper_and_pearson() -> None:
    expected = np.eye(3)[[0, 0, 0, 0, 1, 1, 2]]
    found = np.eye(3)[[0, 0, 0, 1, 1, 1, 2]]
    first, second, third = per_class(expected, found, confidence=0.95)
    assert (first.rows, first.agreed, first.agreement) == (4, 3, 0.75)
    assert first.disagreement_bound == clopper_pearson_upper(1, 4, 0.95)
    assert second.disagreement_bound == pytest.approx(1 - 0.05 ** (1 / 2)) and third.rows == 1


SUBJECT = Subject(
    model="default/<digits>",
    segment="segment-0",
    attempt=1,
    bundle_digest="sha256:" + "0" * 64,
    held_out="file:///artifacts/held_out.npz",
    module_seconds=2.1e-6,
    neural_seconds=19.4e-6,
)


def report(module: Module) -> Report:
    return Report(subject=SUBJECT, outcome=judge(module))


def test_report_as_text_says_what_was_found() -> None:
    text = report(Module()).to_text()
    assert text.startswith("default/<digits>, segment-0: equivalent\n")
    assert "9.24x" in text and "FAIL" not in text
    assert "16 of 16 inputs are refused" in text and "Beside 48 borders between classes" in text
    assert max(len(line) for line in text.splitlines() if line.count("  ") > 2) <= 100


def test_report_as_json_has_no_numbers_that_json_lacks() -> None:
    outcome = judge(Module(lambda x: original(x) * np.float32(np.nan)))
    content = Report(subject=SUBJECT, outcome=outcome).to_json()
    told = json.loads(content, parse_constant=lambda name: pytest.fail(name))
    assert told["passed"] is False and told["test"]["delta"] == "inf"
    assert told["classes"][0]["rows"] > 0 and told["speedup"] == 9.24


class Checker(HTMLParser):
    """Counts tables, and remembers what is open and what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.tables += tag == "table"
        self.loads += [tag for name, _ in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("module", [Module(), Module(lambda x: original(x) * 2)])
def test_report_as_page_is_whole_and_loads_nothing(module: Module) -> None:
    page = to_html(report(module))
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and checker.loads == [] and checker.tables == 3
    assert "default/&lt;digits&gt;" in page and "<digits>" not in page
    assert ("not equivalent" in page) != judge(module).passed


def test_many_classes_are_cut_to_the_worst() -> None:
    outcome = judge(Module())
    expected = np.eye(50)[np.arange(500) % 50]
    found = expected.copy()
    found[7], found[57] = np.eye(50)[8], np.eye(50)[9]
    classes = per_class(expected, found, confidence=0.95)
    text = Report(subject=SUBJECT, outcome=replace(outcome, classes=classes)).to_text()
    assert "80.00 %" in text and "and 30 classes with no lower agreement" in text
