"""`explain` says what the operator will do, because it asks the operator's own decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ecompile_crds.compiledmodule import Stage
from ecompile_kubectl import explanation
from ecompile_kubectl.recorded import recorded_reports
from ecompile_operator.decide.commands import Verb
from ecompile_operator.decide.forecast import Forecast, forecast
from ecompile_operator.decide.futures import Cause

from ..operator.decide.world import World, make_spec


def look(world: World) -> Forecast:
    observed = world.observed()
    return forecast(replace(observed, reports=recorded_reports(observed, world.now)), world.now)


def outcome(found: Forecast, cause: Cause) -> str:
    outlook = next(o for o in found.outlooks if o.cause is cause)
    return "; ".join(change.after for change in outlook.changes)


def test_a_new_model_waits_for_its_profile_job() -> None:
    world = World()
    world.settle()
    found = look(world)
    assert "created" in outcome(found, Cause.JOB_SUCCEEDS)
    assert "Stalled" in outcome(found, Cause.JOB_FAILS)


def test_validation_leads_on_or_to_rejection() -> None:
    found = look(World().to_validating())
    assert "Validated" in outcome(found, Cause.JOB_SUCCEEDS)
    assert "Rejected" in outcome(found, Cause.JOB_REFUSES)


def test_a_step_is_left_by_traffic_and_undone_by_an_alert() -> None:
    found = look(World().to_shadow())
    assert "Canary 2/2 canary 50%" in outcome(found, Cause.GOOD_TRAFFIC)
    assert "RollingBack" in outcome(found, Cause.ALERT)


def test_a_wait_without_data_ends_at_the_deadline_of_the_step() -> None:
    rollout = {
        "steps": [{"mode": "shadow", "minComparisons": 10, "deadlineSeconds": 600}],
        "analysis": {"onNoData": "neural"},
    }
    world = World(spec=make_spec(rollout=rollout)).to_shadow()
    world.report(comparisons=0)
    world.step()
    found = look(world)
    due = next(o for o in found.outlooks if o.cause is Cause.TIME)
    assert due.at is not None
    entered = world.now - timedelta(seconds=1.0)
    assert abs((due.at - entered).total_seconds() - 600) < 5
    text = "\n".join(explanation.lines(found, world.now))
    assert "in 9m" in text and "RollingBack" in text


def test_a_rolled_back_module_says_when_it_is_revalidated() -> None:
    world = World().to_rolled_back()
    found = look(world)
    due = next(o for o in found.outlooks if o.cause is Cause.TIME)
    assert due.at is not None and abs((due.at - world.now).total_seconds() - 10) < 2
    assert "Revalidating" in outcome(found, Cause.TIME)


def test_a_forecast_of_time_comes_true() -> None:
    world = World().to_rolled_back()
    due = next(o for o in look(world).outlooks if o.cause is Cause.TIME)
    assert due.at is not None
    early = (due.at - world.now).total_seconds() - 1.1
    world.report()
    world.step(seconds=early)
    assert world.stage() is Stage.ROLLED_BACK
    world.report()
    world.step(seconds=1.2)
    assert world.stage() is Stage.REVALIDATING


@pytest.mark.parametrize(("verb", "stage"), [(Verb.PROMOTE, "Promoted"), (Verb.ABORT, "RollingBack")])
def test_commands_are_foretold(verb: Verb, stage: str) -> None:
    world = World().to_canary()
    found = look(world)
    assert any(stage in c.after for c in next(c for c in found.commands if c.verb is verb).changes)
    world.command = f"{verb.value} now"
    world.step()
    assert world.stage() is Stage(stage)


def test_a_paused_model_goes_on_once_it_is_resumed() -> None:
    world = World().to_rolled_back()
    world.change_spec(suspend=True)
    world.step(seconds=60)
    found = look(world)
    assert all(o.cause is not Cause.TIME for o in found.outlooks)
    assert "Revalidating" in outcome(found, Cause.UNSUSPENDED)


def test_a_promoted_model_has_nothing_due() -> None:
    world = World().to_promoted()
    world.report()
    world.settle()
    found = look(world)
    assert [o.cause for o in found.outlooks] == [Cause.ALERT]
    text = "\n".join(explanation.lines(found, world.now))
    assert text.startswith("digits is Promoted.")
    assert "rollback:" in text and "promote:" not in text


def test_the_recorded_figures_give_the_operator_s_own_verdict() -> None:
    world = World().to_shadow()
    world.report(comparisons=3)
    world.step()
    observed = world.observed()
    rebuilt = replace(observed, reports=recorded_reports(observed, world.now))
    module = forecast(rebuilt, world.now).present.modules[0]
    assert module.status.message == world.module().message
