"""When a rollout starts and moves on: evidence, approval, windows, soak time, limits."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from ecompile_crds.compiledmodule import Stage
from ecompile_crds.hybridmodel import Day, Window
from ecompile_operator.decide.bounds import mean_upper_bound
from ecompile_operator.decide.forecast import forecast
from ecompile_operator.decide.futures import Cause
from ecompile_operator.decide.observed import Fleet, GroupCounters, Observed
from ecompile_operator.decide.windows import is_open, next_opening

from .world import World, make_spec

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
STEPS = [
    {"mode": "shadow", "minComparisons": 10, "deadlineSeconds": 60},
    {"mode": "canary", "weight": 0.1, "minComparisons": 10, "deadlineSeconds": 60},
    {"mode": "canary", "weight": 0.5, "minComparisons": 10, "deadlineSeconds": 60, "approval": "Required"},
]


class Crowded(World):
    """A world in which other models roll out."""

    fleet = Fleet(rollouts=3, rollouts_in_namespace=1, limit=3)

    def observed(self) -> Observed:
        return replace(super().observed(), fleet=self.fleet)


def to_validated(world: World) -> World:
    world.to_validating()
    world.finish_job()
    world.settle()
    world.pods_ready()
    world.settle()
    return world


def test_the_bound_shrinks_with_evidence_and_grows_with_confidence() -> None:
    few, many = (mean_upper_bound(0.0, n, cap=0.02, confidence=0.95) for n in (30, 3000))
    assert many < few < 0.02
    assert mean_upper_bound(0.0, 30, cap=0.02, confidence=0.999) > few
    assert mean_upper_bound(0.0, 0, cap=0.02, confidence=0.95) == 0.02
    assert mean_upper_bound(5.0, 100, cap=0.02, confidence=0.95) == 0.02


def test_the_bound_holds_at_every_moment_as_often_as_it_says() -> None:
    """A gate that looks after each of 300 comparisons is wrong about the mean in at most 5 % of 400 runs."""
    source, wrong = random.Random(7), 0
    for _ in range(400):
        total = 0.0
        for n in range(1, 301):
            total += 1.0 if source.random() < 0.1 else 0.0
            if n % 10 == 0 and mean_upper_bound(total, n, cap=1.0, confidence=0.95) < 0.1:
                wrong += 1
                break
    assert wrong <= 20


def test_enough_comparisons_without_enough_evidence_is_not_enough() -> None:
    world = World().to_shadow()
    world.report(comparisons=15)
    world.step()
    assert world.stage() is Stage.SHADOW
    assert "with confidence 0.95" in world.module().message or "timings" in world.module().message
    world.report(comparisons=40, delta=1.5e-3)
    world.step()
    assert world.stage() is Stage.SHADOW and "at most" in world.module().message
    world.report(comparisons=40)
    world.step()
    assert world.stage() is Stage.CANARY


def test_more_confidence_needs_more_comparisons() -> None:
    world = World(spec=make_spec(equivalence={"confidence": 0.9999})).to_shadow()
    world.report(comparisons=40)
    world.step()
    assert world.stage() is Stage.SHADOW and "confidence 0.9999" in world.module().message
    measured = world.module().measurements
    assert measured is not None and measured.delta_bound is not None and measured.delta_bound > 2e-3


def test_latency_that_was_not_measured_does_not_pass() -> None:
    world = World().to_shadow()
    world.report()
    world.reports = {
        n: replace(r, counters=tuple(replace(c, latency_samples=0) for c in r.counters))
        for n, r in world.reports.items()
    }
    world.step()
    assert world.stage() is Stage.SHADOW and "0 of 50 timings" in world.module().message


def test_a_step_that_asks_for_approval_waits_for_it_and_consumes_it() -> None:
    world = World(spec=make_spec(rollout={"steps": STEPS, "approval": "Required"})).to_shadow()
    world.report()
    world.step()
    assert world.stage() is Stage.SHADOW and "waiting for approval" in world.module().message
    world.command = "approve one"
    world.step()
    world.report()
    world.step()
    assert world.module().step == "2/3 canary 10%"
    world.report()
    world.step()
    assert world.module().step == "2/3 canary 10%" and "waiting for approval" in world.module().message
    world.command = "approve two"
    world.step()
    world.report()
    world.step()
    assert world.module().step == "3/3 canary 50%"


def test_a_rollout_starts_and_moves_on_in_its_window_only() -> None:
    window = {"days": ["Mon"], "start": "02:00", "durationMinutes": 60}
    world = World(spec=make_spec(rollout={"steps": STEPS[:2], "windows": [window]}), now=MONDAY)
    to_validated(world)
    assert world.stage() is Stage.VALIDATED
    assert world.module().message == "waits for the window that opens at 2026-01-05T02:00:00Z"
    assert world.last is not None and world.last.wake_at is not None
    world.now = MONDAY + timedelta(hours=2)
    world.report(comparisons=0)
    world.step()
    assert world.stage() is Stage.SHADOW
    world.now = MONDAY + timedelta(hours=4)
    world.report()
    world.step()
    assert world.stage() is Stage.SHADOW and "step passed; waits for the window" in world.module().message
    world.report(delta=1.0)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK


@pytest.mark.parametrize(
    ("hours", "opened"), [(0.0, True), (22.0, True), (2.0, True), (3.1, False), (21.0, False), (26.0, True)]
)
def test_a_window_may_reach_past_midnight(hours: float, opened: bool) -> None:
    windows = [Window(start="22:00", duration_minutes=300)]
    now = MONDAY + timedelta(hours=hours)
    assert is_open(windows, now) is opened
    assert next_opening(windows, now) == (now if opened else MONDAY + timedelta(hours=22))


def test_the_next_opening_may_be_a_week_away() -> None:
    windows = [Window(days=[Day.MON], start="01:00", duration_minutes=30)]
    assert next_opening(windows, MONDAY + timedelta(hours=2)) == MONDAY + timedelta(days=7, hours=1)


def test_the_second_module_waits_until_the_first_has_soaked() -> None:
    rollout = {"steps": STEPS[:1], "soakSeconds": 600}
    world = World(spec=make_spec(rollout=rollout), segments=2).to_shadow()
    assert world.stage(1) is Stage.VALIDATED
    world.report()
    world.step()
    assert world.stage(0) is Stage.PROMOTED
    world.report()
    world.step()
    assert world.stage(1) is Stage.VALIDATED and "soakSeconds" in world.module(1).message
    world.step(seconds=600)
    assert world.stage(1) is Stage.SHADOW


def test_a_rollout_waits_for_a_free_slot() -> None:
    world = to_validated(Crowded())
    assert world.stage() is Stage.VALIDATED
    assert "the operator's limit is 3" in world.module().message
    assert world.last is not None and world.last.waits_for_slot
    Crowded.fleet = Fleet(rollouts=3, rollouts_in_namespace=1, limit_per_namespace=1)
    world.step()
    assert "run in the namespace, the limit is 1" in world.module().message
    Crowded.fleet = Fleet(rollouts=2, rollouts_in_namespace=1, limit=3, limit_per_namespace=2)
    world.step()
    assert world.stage() is Stage.SHADOW
    assert world.last.waits_for_slot is False


FAIR = {"fairness": {"groups": ["a", "b"], "maxGap": 0.05}}


@pytest.mark.parametrize(
    ("counts", "stage", "said"),
    [
        ([("a", 200, 0), ("b", 200, 0)], Stage.CANARY, ""),
        ([("a", 200, 40), ("b", 200, 0)], Stage.ROLLING_BACK, "more frequent in group 'a'"),
        ([("a", 200, 8), ("b", 200, 0)], Stage.SHADOW, "group gap at most"),
        ([("a", 20, 0), ("b", 20, 0)], Stage.SHADOW, "group gap at most"),
        ([("a", 200, 0)], Stage.SHADOW, "no comparison in group 'b' yet"),
    ],
)
def test_a_step_is_left_only_when_the_gap_between_groups_is_known_to_be_small(
    counts: list[tuple[str, int, int]], stage: Stage, said: str
) -> None:
    world = World(spec=make_spec(equivalence=FAIR)).to_shadow()
    groups = tuple(GroupCounters(group=name, comparisons=seen, exceeded=bad) for name, seen, bad in counts)
    world.report(groups=groups)
    world.step()
    assert world.stage() is stage
    assert said in world.module().message
    if stage is Stage.ROLLING_BACK:
        rollback = world.module().last_rollback
        assert rollback is not None and rollback.reason == "GroupGap" and rollback.value > rollback.limit


def test_the_forecast_knows_of_groups() -> None:
    """Good traffic has comparisons of each group."""
    world = World(spec=make_spec(equivalence=FAIR)).to_shadow()
    found = forecast(world.observed(), world.now)
    assert Cause.GOOD_TRAFFIC in {outlook.cause for outlook in found.outlooks}


def test_a_change_of_policy_is_a_new_routing_generation() -> None:
    """In force without a restart, and in the audit log."""
    world = World().to_promoted()
    before = world.status.routing.generation
    world.change_spec(serving={"replicas": 2, "policy": {"name": "guard-only"}})
    world.step()
    table = world.table()
    assert table is not None and table.generation == before + 1 and table.policy.name.value == "guard-only"
    assert world.audit[-1].after.endswith("by policy guard-only")
    world.settle()
    assert world.status.routing.generation == before + 1
