"""When an alert by Alertmanager rolls back, and when it is an old story."""

from __future__ import annotations

from ecompile_crds.compiledmodule import Stage
from ecompile_operator.decide.observed import AlertKind

from .world import World, make_spec


def test_it_rolls_back_as_a_pod_s_alert_does() -> None:
    world = World().to_promoted()
    world.alertmanager(AlertKind.FALLBACK)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    rollback = world.module().last_rollback
    assert rollback is not None and rollback.reason == "Fallback"
    assert (rollback.value, rollback.limit) == (0.5, 2e-3)
    assert "EcompileDrift: fires (Alertmanager)" in rollback.detail


def test_a_repetition_of_what_was_answered_rolls_nothing_back() -> None:
    world = World().to_promoted()
    first = world.status.routing.generation
    world.alertmanager()
    world.step()
    world.report()
    world.step()
    assert world.stage() is Stage.ROLLED_BACK
    world.remote_alerts = ()
    world.step(seconds=3600)
    world.settle()
    world.finish_job()
    world.settle()
    assert world.stage() is Stage.SHADOW
    world.alertmanager(since=first)
    world.step()
    assert world.stage() is Stage.SHADOW


def test_an_alert_from_before_the_step_is_not_about_it() -> None:
    world = World().to_shadow()
    world.alertmanager()
    world.status = world.status.model_copy(
        update={"routing": world.status.routing.model_copy(update={"generation": world.status.routing.generation + 1})}
    )
    spec, status = next(iter(world.modules.values()))
    rollout = status.rollout.model_copy(update={"generation": status.rollout.generation + 1})
    world.modules = {next(iter(world.modules)): (spec, status.model_copy(update={"rollout": rollout}))}
    world.step()
    assert world.stage() is Stage.SHADOW


def test_with_auto_rollback_off_it_is_only_said() -> None:
    spec = make_spec()
    rollout = spec.rollout.model_copy(update={"auto_rollback": False})
    world = World(spec=spec.model_copy(update={"rollout": rollout})).to_promoted()
    world.alertmanager()
    world.step()
    assert world.stage() is Stage.PROMOTED
    assert "autoRollback is off" in world.status.message
