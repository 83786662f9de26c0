"""Validating again while a module serves, and what waits while many models fail at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from ecompile_crds.compiledmodule import Stage
from ecompile_crds.cron import next_time
from ecompile_operator.decide.observed import Fleet, Observed, Storm

from .world import START, World, make_spec


def promoted(**revalidation: object) -> World:
    """A world whose module serves; `revalidation` is added to short back-offs."""
    spec = make_spec(revalidation={"backoffSeconds": 10, "maxAttempts": 2, **revalidation})
    world = World(spec=spec).to_promoted()
    settle(world, seconds=1)
    return world


def settle(world: World, *, seconds: float) -> None:
    world.report(comparisons=0)
    world.step(seconds=seconds)
    world.report(comparisons=0)
    world.step(seconds=0.1)


def validations(world: World) -> int:
    return sum(1 for job in world.jobs.values() if job.kind.value == "validate")


def test_nothing_is_validated_again_unless_asked_for() -> None:
    world = promoted()
    settle(world, seconds=86_400 * 400)
    assert validations(world) == 1 and world.stage() is Stage.PROMOTED


def test_a_schedule_validates_while_the_module_serves() -> None:
    world = promoted(schedule="0 3 * * *")
    settle(world, seconds=3600 * 2)
    assert not world.running()
    settle(world, seconds=3600 + 660)
    assert validations(world) == 2 and world.stage() is Stage.PROMOTED
    assert "while it serves: schedule 0 3 * * *" in world.module().message
    generation = world.status.routing.generation
    world.finish_job()
    settle(world, seconds=1)
    assert world.stage() is Stage.PROMOTED and world.status.routing.generation == generation
    assert "validated again, attempt 2" in world.module().message
    settle(world, seconds=60)
    assert not world.running()


def test_the_next_validation_is_announced() -> None:
    world = promoted(maxAgeDays=30)
    assert world.last is not None and world.last.wake_at is not None
    settle(world, seconds=86_400 * 30)
    assert validations(world) == 2
    assert "too old" in world.module().message


def test_a_new_worker_image_validates_again_where_asked_for() -> None:
    world = promoted(onWorkerChange=True)
    world.worker_image = "worker:2"
    settle(world, seconds=1)
    assert validations(world) == 2 and "worker:2, it was validated with worker:1" in world.module().message
    world.finish_job()
    settle(world, seconds=1)
    settle(world, seconds=1)
    assert validations(world) == 2 and world.module().rollout.checker == "worker:2"


def test_a_refusal_rolls_back() -> None:
    world = promoted(maxAgeDays=1)
    settle(world, seconds=86_400)
    world.finish_job(passed=False)
    world.report(comparisons=0)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    rollback = world.module().last_rollback
    assert rollback is not None and rollback.reason == "Revalidation"


def test_a_validation_that_does_not_finish_is_tried_again_then_rolls_back() -> None:
    world = promoted(maxAgeDays=1)
    settle(world, seconds=86_400)
    world.fail_job()
    settle(world, seconds=1)
    assert world.stage() is Stage.PROMOTED and "again at" in world.module().message
    settle(world, seconds=5)
    assert not world.running()
    settle(world, seconds=30)
    assert world.running()
    world.fail_job()
    world.report(comparisons=0)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    assert "2 attempts to validate it again failed" in world.module().message


class Stormy(World):
    """Other models were rolled back."""

    until = START + timedelta(days=1)

    def observed(self) -> Observed:
        storm = Storm(models=7, reason="Drift", window_seconds=300, until=self.until)
        return replace(super().observed(), fleet=Fleet(storm=storm))


def test_in_a_storm_nothing_starts_but_rollbacks_go_on() -> None:
    world = Stormy()
    world.to_validating()
    world.finish_job()
    world.settle()
    world.pods_ready()
    world.settle()
    assert world.stage() is Stage.VALIDATED
    assert "7 models were rolled back within 300 s, mostly for Drift" in world.module().message
    world.command = "promote now"
    world.step()
    world.command = "rollback back"
    world.step()
    assert world.stage() is Stage.ROLLING_BACK


def test_a_storm_ends() -> None:
    world = Stormy()
    world.to_validating()
    world.finish_job()
    world.settle()
    world.pods_ready()
    world.step(seconds=86_400)
    assert world.stage() is Stage.SHADOW


MONDAY = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("* * * * *", "2026-01-05T12:31"),
        ("0 3 * * *", "2026-01-06T03:00"),
        ("*/20 12 * * *", "2026-01-05T12:40"),
        ("15 9-17/4 * * *", "2026-01-05T13:15"),
        ("0 0 1 * *", "2026-02-01T00:00"),
        ("0 0 * * 0", "2026-01-11T00:00"),
        ("0 0 * * 7", "2026-01-11T00:00"),
        ("0 0 13 * 5", "2026-01-09T00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 0 30 2 *", None),
    ],
)
def test_schedules_are_read_as_cron_reads_them(schedule: str, due: str | None) -> None:
    found = next_time(schedule, MONDAY)
    assert (found.strftime("%Y-%m-%dT%H:%M") if found is not None else None) == due


@pytest.mark.parametrize("schedule", ["* * * *", "60 * * * *", "5-1 * * * *", "*/0 * * * *", "a * * * *", "- * * * *"])
def test_a_schedule_that_is_none_is_a_sentence(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"fields|number|between"):
        next_time(schedule, MONDAY)
