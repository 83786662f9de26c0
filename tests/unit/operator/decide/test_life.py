"""The whole life of a model as decisions, and each fault on its way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ecompile_crds import audit
from ecompile_crds.compiledmodule import Stage
from ecompile_crds.conditions import is_true
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import ModelPhase
from ecompile_crds.jobs import JobKind
from ecompile_crds.routing import RouteMode
from ecompile_operator.decide.decide import decide
from ecompile_operator.decide.observed import AlertKind, JobPhase, MergedEvidence

from .world import World, make_spec


def condition(world: World, type_: str) -> bool:
    return is_true(world.status.conditions, type_)


def test_life_runs_from_apply_to_promoted() -> None:
    world = World().to_promoted()
    table = world.table()
    assert table is not None and table.segments[0].mode is RouteMode.COMPILED
    world.report()
    world.settle()
    assert world.status.phase is ModelPhase.PROMOTED
    assert condition(world, "Ready") and not condition(world, "Reconciling")
    assert world.status.observed_generation == world.generation


def test_a_record_whose_status_was_lost_is_not_repeated_and_another_swap_of_that_generation_is_not_left_out() -> None:
    """The operator died between writing the audit log and the status; then something else was decided."""
    world = World(segments=2).to_validating()
    world.finish_job()
    world.settle()
    world.pods_ready()
    before = replace(world, modules=dict(world.modules), jobs=dict(world.jobs), audit=list(world.audit))
    while len(world.audit) == len(before.audit):
        world.step()
    (lost,) = world.audit[len(before.audit) :]
    again = replace(before, modules=dict(before.modules), audit=list(world.audit))
    while again.status.routing.generation < lost.generation:
        again.step()
    assert again.audit == world.audit, "the same swap, decided again, is not recorded twice"

    other = replace(before, modules=dict(before.modules), audit=list(world.audit))
    first = next(name for name, (spec, _) in other.modules.items() if spec.segment == lost.segment)
    other.modules[first] = (
        other.modules[first][0],
        other.modules[first][1].model_copy(
            update={"rollout": other.modules[first][1].rollout.model_copy(update={"stage": Stage.HELD})}
        ),
    )
    while other.status.routing.generation < lost.generation:
        other.step()
    audit.verify(other.audit, head=other.status.audit_head)
    told = {(r.generation, r.segment): r.after.split()[0] for r in other.audit}
    assert told[lost.generation, lost.segment] == "neural" and "shadow" in told.values()


def test_every_swap_is_in_the_audit_chain() -> None:
    world = World().to_rolled_back()
    audit.verify(world.audit, head=world.status.audit_head)
    assert [r.after.split()[0] for r in world.audit] == ["shadow", "canary", "compiled", "neural"]
    assert world.audit[-1].reason.startswith("Drift")


def test_neural_path_serves_before_distillation_ends() -> None:
    world = World()
    world.settle()
    world.finish_job()
    world.settle()
    assert world.deployment is not None
    assert [j.kind for j in world.running()] == [JobKind.DISTILL]


def test_segment_that_does_not_pay_stays_neural() -> None:
    world = World()
    world.settle()
    world.finish_job()
    world.settle()
    world.finish_job(pays=False)
    world.settle()
    world.pods_ready()
    world.report()
    world.settle()
    assert not world.modules
    assert world.status.phase is ModelPhase.NEURAL
    assert condition(world, "Ready")


def test_failed_validation_rejects_the_module_for_good() -> None:
    world = World().to_validating()
    world.finish_job(passed=False)
    world.settle()
    assert world.stage() is Stage.REJECTED


def test_job_is_never_created_twice_for_the_same_inputs() -> None:
    world = World().to_promoted()
    names = list(world.jobs)
    world.settle()
    assert list(world.jobs) == names
    assert sorted(j.kind.value for j in world.jobs.values()) == ["distill", "profile", "validate"]


def test_gate_waits_for_all_pods_to_acknowledge() -> None:
    world = World().to_shadow()
    world.report(generation=world.status.routing.generation - 1)
    world.step()
    assert world.stage() is Stage.SHADOW
    assert "not acknowledged" in world.module().message


def test_gate_waits_for_enough_comparisons() -> None:
    world = World().to_shadow()
    world.report(comparisons=3)
    world.step()
    assert world.stage() is Stage.SHADOW


def test_expired_heartbeat_never_promotes() -> None:
    world = World().to_shadow()
    world.report()
    world.step(seconds=30)
    assert world.stage() is Stage.SHADOW


def test_gate_rolls_back_when_mean_delta_is_above_the_limit() -> None:
    world = World().to_shadow()
    world.report(delta=1e-2)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    rollback = world.module().last_rollback
    assert rollback is not None and rollback.reason == "Drift" and rollback.value == pytest.approx(1e-2)


def test_gate_rolls_back_when_the_module_is_slower() -> None:
    world = World().to_canary()
    world.report(compiled_p50=1e-3)
    world.step()
    assert world.module().last_rollback is not None
    assert world.module().last_rollback.reason == "Latency"  # type: ignore[union-attr]  # checked on the line above


@pytest.mark.parametrize("kind", list(AlertKind))
def test_alert_rolls_back_at_once(kind: AlertKind) -> None:
    world = World().to_promoted()
    world.report()
    world.report(alert=kind)
    world.step(seconds=0.01)
    assert world.stage() is Stage.ROLLING_BACK
    table = world.table()
    assert table is not None and table.segments[0].mode is RouteMode.NEURAL


def test_rollback_does_not_wait_for_suspend_to_end() -> None:
    world = World().to_promoted()
    world.change_spec(suspend=True)
    world.report(alert=AlertKind.BREAKER)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    world.report()
    world.step()
    assert world.stage() is Stage.ROLLED_BACK


def test_rollback_waits_for_last_acknowledgement() -> None:
    world = World().to_promoted()
    before = world.status.routing.generation
    world.report(alert=AlertKind.DRIFT)
    world.step()
    world.report(generation=before)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    world.report()
    world.step()
    assert world.stage() is Stage.ROLLED_BACK
    assert world.module().last_rollback.routed_neural_in_seconds == pytest.approx(2.0, abs=0.1)  # type: ignore[union-attr]  # rolled back above


def test_rollback_is_complete_when_unreachable_pods_are_gone() -> None:
    world = World().to_promoted()
    world.report(alert=AlertKind.DRIFT)
    world.step()
    world.pods = ()
    world.silence()
    world.step()
    assert world.stage() is Stage.ROLLED_BACK


def test_auto_rollback_off_keeps_the_module_and_says_so() -> None:
    world = World(spec=make_spec())
    world.to_promoted()
    rollout = world.spec.rollout.model_dump(by_alias=True, mode="json") | {"autoRollback": False}
    world.change_spec(rollout=rollout)
    world.report(alert=AlertKind.DRIFT)
    world.step()
    assert world.stage() is Stage.PROMOTED
    assert "autoRollback" in world.status.message


def test_revalidation_passes_and_the_module_comes_back() -> None:
    world = World().to_rolled_back()
    world.step(seconds=1)
    assert world.stage() is Stage.ROLLED_BACK
    world.step(seconds=30)
    world.settle()
    assert world.stage() is Stage.REVALIDATING
    world.finish_job()
    world.settle()
    for expected in (Stage.SHADOW, Stage.CANARY, Stage.PROMOTED):
        assert world.stage() is expected
        world.report()
        world.step()


def test_alert_answered_by_a_rollback_does_not_roll_back_again() -> None:
    world = World().to_promoted()
    old = world.status.routing.generation
    world.report(alert=AlertKind.DRIFT)
    world.step()
    world.report()
    world.step(seconds=1)
    world.step(seconds=60)
    world.settle()
    world.finish_job()
    world.settle()
    assert world.stage() is Stage.SHADOW
    world.report(alert=AlertKind.DRIFT, generation=old)
    world.step()
    assert world.stage() is Stage.SHADOW


def test_failed_revalidations_end_in_held_with_a_hint() -> None:
    world = World().to_rolled_back()
    for _ in range(2):
        world.step(seconds=100)
        world.settle()
        assert world.stage() is Stage.REVALIDATING
        world.finish_job(passed=False)
        world.settle()
    assert world.stage() is Stage.HELD
    assert "retry" in world.module().message
    assert condition(world, "Degraded")


def test_persistent_drift_uses_up_the_attempts_and_ends_in_held() -> None:
    world = World().to_rolled_back()
    for _ in range(2):
        world.step(seconds=100)
        world.settle()
        world.finish_job()
        world.settle()
        assert world.stage() is Stage.SHADOW
        world.report()
        world.report(alert=AlertKind.FALLBACK)
        world.step(seconds=0.1)
        world.report()
        world.step()
    assert world.stage() is Stage.HELD


def test_retry_command_leaves_held_once_per_token() -> None:
    world = World().to_rolled_back()
    for _ in range(2):
        world.step(seconds=100)
        world.settle()
        world.finish_job(passed=False)
        world.settle()
    world.command = "retry t1"
    world.settle()
    assert world.stage() is Stage.REVALIDATING
    world.finish_job(passed=False)
    world.settle()
    assert world.stage() is Stage.ROLLED_BACK
    assert world.status.last_command is not None and world.status.last_command.token == "t1"
    assert sum(1 for e in world.events if e.reason == "CommandExecuted") == 1


def test_manual_rollback_is_not_undone_by_the_operator() -> None:
    world = World().to_promoted()
    world.command = "rollback now-1"
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    world.report()
    world.step()
    assert world.stage() is Stage.HELD
    world.step(seconds=10_000)
    assert world.stage() is Stage.HELD
    assert world.audit[-1].actor == "command:now-1"


def test_promote_command_skips_the_remaining_steps() -> None:
    world = World().to_shadow()
    world.command = "promote p1"
    world.step()
    assert world.stage() is Stage.PROMOTED


@pytest.mark.parametrize("text", ["explode t1", "rollback", "rollback a b", "   ", "rollback " + "x" * 80])
def test_bad_command_is_answered_and_changes_nothing(text: str) -> None:
    world = World().to_promoted()
    world.report()
    world.command = text
    world.step()
    assert world.stage() is Stage.PROMOTED
    if text.strip():
        assert world.status.last_command is not None and world.status.last_command.answer.startswith("refused")
        assert world.last is not None and [e.reason for e in world.last.events] == ["CommandRefused"]


def test_approval_gate_waits_for_a_human() -> None:
    rollout = make_spec().rollout.model_dump(by_alias=True, mode="json") | {"approval": "Required"}
    world = World(spec=make_spec(rollout=rollout)).to_shadow()
    world.report()
    world.step()
    assert world.stage() is Stage.SHADOW and "approve" in world.module().message
    world.command = "approve ok"
    world.report()
    world.step()
    world.report()
    world.step()
    assert world.stage() is Stage.CANARY


@pytest.mark.parametrize(
    ("policy", "expected"), [("wait", Stage.SHADOW), ("hold", Stage.HELD), ("neural", Stage.ROLLED_BACK)]
)
def test_no_data_past_the_deadline_follows_the_policy(policy: str, expected: Stage) -> None:
    rollout = make_spec().rollout.model_dump(by_alias=True, mode="json")
    rollout["analysis"]["onNoData"] = policy
    world = World(spec=make_spec(rollout=rollout)).to_shadow()
    world.report(comparisons=0)
    world.step(seconds=61)
    world.report(comparisons=0)
    world.step(seconds=1)
    assert world.stage() is expected


def test_changed_source_starts_a_new_life_and_the_old_keeps_serving() -> None:
    world = World().to_promoted()
    old = world.status.serving
    assert old is not None
    world.change_spec(source={"uri": "file:///artifacts/digits/model2.onnx"})
    world.settle()
    assert world.status.serving is not None and world.status.serving.key == old.key
    table = world.table()
    assert table is not None and table.segments[0].mode is RouteMode.COMPILED
    world.finish_job()
    world.settle()
    world.finish_job()
    world.settle()
    world.finish_job()
    world.settle()
    assert world.status.serving.key != old.key
    world.pods_ready()
    world.settle()
    assert world.stage() is Stage.SHADOW
    assert world.module(life=old.key).rollout.stage is Stage.RETIRED


def test_source_changed_mid_rollout_and_back_again_keeps_one_life() -> None:
    world = World().to_canary()
    old = world.status.serving
    assert old is not None
    world.change_spec(source={"uri": "file:///artifacts/digits/model2.onnx"})
    world.settle()
    world.change_spec()
    world.settle()
    assert world.status.life is not None and world.status.life.key == old.key and world.status.life.profiled
    assert world.stage() is Stage.CANARY


def test_unfinished_jobs_of_an_abandoned_life_are_deleted() -> None:
    world = World()
    world.settle()
    (first,) = world.running()
    world.change_spec(source={"uri": "file:///artifacts/digits/model2.onnx"})
    decision = world.step()
    assert decision.delete_jobs == (first.name,)
    assert [job.name for job in world.running()] != [first.name]


def test_job_waiting_for_an_image_is_made_again_once_the_image_is_another() -> None:
    world = World()
    world.settle()
    (job,) = world.running()
    world.jobs[job.name] = replace(job, phase=JobPhase.PENDING, reason="ErrImagePull", message="not found")
    assert world.step().delete_jobs == ()
    world.worker_image = "worker:2"
    assert world.step().delete_jobs == (job.name,)
    world.settle()
    assert [j.image for j in world.running()] == ["worker:2"]


def test_missing_source_is_looked_for_again_without_end() -> None:
    world = World()
    world.settle()
    for _ in range(6):
        world.fail_job(Code.DATA_MISSING)
        world.step(seconds=0.1)
        assert not world.running()
        world.step(seconds=400)
        assert len(world.running()) == 1
    world.finish_job()
    world.settle()
    assert world.status.failure is None


def test_final_failure_stalls_until_the_spec_changes() -> None:
    world = World()
    world.settle()
    world.fail_job(Code.MODEL_MALFORMED, retryable=False)
    world.settle()
    world.step(seconds=10_000)
    assert not world.running()
    assert condition(world, "Stalled") and "it broke" in world.status.message
    world.change_spec(jobs={"deadlineSeconds": 60})
    world.settle()
    assert len(world.running()) == 1 and not condition(world, "Stalled")


def test_retry_command_tries_a_failed_job_again() -> None:
    world = World()
    world.settle()
    world.fail_job(Code.OUT_OF_MEMORY)
    world.settle()
    assert not world.running()
    world.command = "retry again-1"
    world.settle()
    assert len(world.running()) == 1


def test_suspend_stops_before_the_first_job() -> None:
    world = World(spec=make_spec(suspend=True))
    world.settle()
    assert not world.jobs and world.status.phase is ModelPhase.SUSPENDED


def test_unreadable_spec_keeps_what_serves() -> None:
    world = World().to_promoted()
    observed = replace(world.observed(), spec=None, spec_error="spec.source.uri: missing")
    decision = decide(observed, world.now)
    assert decision.routing is not None and decision.routing.segments[0].mode is RouteMode.COMPILED
    assert not decision.module_updates
    assert is_true(decision.status.conditions, "Stalled") and "spec.source.uri" in decision.status.message


def test_service_of_someone_else_is_left_alone() -> None:
    world = World()
    world.settle()
    world.finish_job()
    decision = decide(replace(world.observed(), service_owner="HybridModel/other"), world.now)
    assert decision.serving is None
    assert "spec.serving.serviceName" in decision.status.message and "HybridModel/other" in decision.status.message


def test_two_modules_roll_out_one_after_the_other() -> None:
    world = World(segments=2).to_shadow()
    assert (world.stage(0), world.stage(1)) == (Stage.SHADOW, Stage.VALIDATED)
    world.report()
    world.step()
    assert (world.stage(0), world.stage(1)) == (Stage.CANARY, Stage.VALIDATED)
    world.report()
    world.step()
    assert (world.stage(0), world.stage(1)) == (Stage.PROMOTED, Stage.SHADOW)


def test_settled_model_decides_the_same_again() -> None:
    world = World().to_promoted()
    world.report()
    world.settle()
    status, modules = world.status, dict(world.modules)
    for _ in range(5):
        world.report()
        decision = world.step()
        assert not decision.module_updates and not decision.audit and not decision.events
    assert world.status == status and dict(world.modules) == modules


def merged(world: World, e_value: float, **changes: object) -> MergedEvidence:
    found = MergedEvidence(
        kind=AlertKind.DRIFT,
        segment=0,
        generation=world.status.routing.generation,
        e_value=e_value,
        observations=400,
        pods=3,
        mean=4e-3,
        limit=2e-3,
    )
    return replace(found, **changes)  # type: ignore[arg-type]  # names as above


def test_evidence_of_all_pods_together_rolls_back() -> None:
    """No pod has alerted."""
    world = World().to_promoted()
    world.report()
    world.evidence = (merged(world, 1e6),)
    world.step()
    rollback = world.module().last_rollback
    assert world.stage() is Stage.ROLLING_BACK and rollback is not None
    assert rollback.reason == "Drift" and "3 pods together" in rollback.detail
    world.report()
    world.settle()
    assert world.stage() is Stage.ROLLED_BACK


@pytest.mark.parametrize("change", [{"e_value": 9e5}, {"segment": 1}, {"generation": 0}])
def test_evidence_that_is_too_weak_or_about_something_else_changes_nothing(change: dict[str, object]) -> None:
    world = World().to_promoted()
    world.report()
    world.evidence = (merged(world, 1e6, **{k: v for k, v in change.items() if k != "e_value"}),)
    if "e_value" in change:
        world.evidence = (merged(world, 9e5),)
    world.step()
    assert world.stage() is Stage.PROMOTED


def test_spec_says_how_much_evidence_is_enough() -> None:
    steps = make_spec().rollout.model_dump(mode="json", by_alias=True)["steps"]
    world = World(spec=make_spec(rollout={"steps": steps, "analysis": {"falseAlarmInterval": 10**9}})).to_promoted()
    world.report()
    world.evidence = (merged(world, 1e8),)
    world.step()
    assert world.stage() is Stage.PROMOTED


def test_proven_coverage_is_the_proven_share_of_what_is_compared() -> None:
    """80 % of the requests answered by code; half of those compared lie in a proven region."""
    world = World().to_promoted()
    world.report(comparisons=80, fallbacks=20)
    for name, report in world.reports.items():
        counters = tuple(replace(c, proven_comparisons=40) for c in report.counters)
        world.reports[name] = replace(report, counters=counters)
    world.step()
    assert (world.status.deterministic_coverage, world.status.proven_coverage) == (0.8, 0.4)
