"""A rollout: into the first step, from step to step by evidence, and what happens without it."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

from ecompile_crds.compiledmodule import (
    CompiledModuleStatus,
    Measurements,
    RolloutStatus,
    Stage,
)
from ecompile_crds.hybridmodel import Approval, OnNoData, StepMode

from .clock import seconds_since
from .decision import ModelEvent
from .draft import Draft
from .gate import Evidence, Finding, Verdict, delta_bound, judge, total
from .observed import Counters, ObservedModule
from .stages import enter, next_generation, promote, ready_pods, reports_of, roll_back, step_label
from .starting import closed, why_not_start

POLL_SECONDS = 1.0
"""How often a rollout step is judged; pods report once a second."""


def start_rollout(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    """Into the first step, one module at a time so that blame is clear."""
    status = draft.modules[module.name]
    if draft.serving is None or draft.serving.key != module.spec.life:
        draft.notes.append(f"{module.name} waits until its source is served")
        return status
    deployment = draft.observed.deployment
    if deployment is None or deployment.life != module.spec.life or not ready_pods(draft, module.spec.life):
        draft.notes.append(f"{module.name} waits for a serving pod to be ready")
        return status
    if deployment.updated < deployment.replicas or deployment.ready < deployment.replicas:
        draft.notes.append(f"{module.name} waits for all {deployment.replicas} serving pods to be ready")
        draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS))
        return status
    busy = [
        m.name
        for m in draft.of_life(module.spec.life)
        if m.name != module.name and draft.stage(m) in (Stage.SHADOW, Stage.CANARY, Stage.ROLLING_BACK)
    ]
    if busy:
        draft.notes.append(f"{module.name} waits for {busy[0]}")
        return status
    waits = why_not_start(draft, module)
    if waits:
        draft.notes.append(f"{module.name} {waits}")
        return status.model_copy(update={"message": waits})
    draft.events.append(ModelEvent(type="Normal", reason="RolloutStarted", message="step 1", module=module.name))
    return _enter_step(draft, module, 0, approved=status.rollout.approved)


def _enter_step(draft: Draft, module: ObservedModule, index: int, *, approved: bool) -> CompiledModuleStatus:
    step = draft.spec.rollout.steps[index]
    stage = Stage.SHADOW if step.mode is StepMode.SHADOW else Stage.CANARY
    draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS))
    generation = next_generation(draft)
    status = enter(draft, module, stage, "waiting for traffic", step=index, generation=generation, approved=approved)
    return status.model_copy(update={"measurements": None})


def judge_step(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    rollout = status.rollout
    steps = draft.spec.rollout.steps
    draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS))
    if rollout.step >= len(steps):
        return _enter_step(draft, module, len(steps) - 1, approved=rollout.approved)
    life = module.spec.life
    reports = reports_of(draft, life)
    counters = total(reports, module.spec.segment, rollout.generation)
    step = steps[rollout.step]
    finding = judge(
        Evidence(
            step=step,
            analysis=draft.spec.rollout.analysis,
            confidence=draft.spec.equivalence.confidence,
            generation=rollout.generation,
            pods=ready_pods(draft, life),
            reports=reports,
            total=counters,
            fairness=draft.spec.equivalence.fairness,
        )
    )
    speedup = None
    if counters.compiled_p50_seconds > 0:
        speedup = round(counters.neural_p50_seconds / counters.compiled_p50_seconds, 2)
    measured = Measurements(
        requests=counters.requests,
        comparisons=counters.comparisons,
        fallbacks=counters.fallbacks,
        guard_checked=counters.guard_checked,
        mean_delta=counters.delta_sum / counters.comparisons if counters.comparisons else None,
        max_delta=counters.delta_max if counters.comparisons else None,
        delta_bound=_bound(draft, counters),
        fallback_rate=counters.fallbacks / counters.guard_checked if counters.guard_checked else None,
        speedup=speedup,
    )
    draft.modules[module.name] = status.model_copy(update={"measurements": measured, "message": finding.reason})
    draft.notes.append(f"{module.name} {step_label(draft, rollout)}: {finding.reason}")
    match finding.verdict:
        case Verdict.PASS:
            return _leave_step(draft, module, finding)
        case Verdict.FAIL:
            if not draft.spec.rollout.auto_rollback:
                return draft.modules[module.name]
            return roll_back(
                draft,
                module,
                reason=finding.kind.value if finding.kind is not None else "Gate",
                detail=finding.reason,
                value=finding.value,
                limit=finding.limit,
                by_human=False,
            )
        case Verdict.UNKNOWN:
            return _no_data(draft, module, finding)
        case _:
            assert_never(finding.verdict)


def _bound(draft: Draft, counters: Counters) -> float | None:
    if not counters.comparisons:
        return None
    limit = draft.spec.rollout.analysis.drift_limit
    return delta_bound(counters, limit=limit, confidence=draft.spec.equivalence.confidence)


def _needs_approval(draft: Draft, rollout: RolloutStatus, following: int) -> bool:
    """Before the first step that answers requests where the rollout asks for it, and before each step that does."""
    steps = draft.spec.rollout.steps
    if following < len(steps) and steps[following].approval is Approval.REQUIRED:
        return True
    enters_service = following >= len(steps) or steps[following].mode is StepMode.CANARY
    asked = draft.spec.rollout.approval is Approval.REQUIRED
    return rollout.stage is Stage.SHADOW and enters_service and asked


def _leave_step(draft: Draft, module: ObservedModule, finding: Finding) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    steps = draft.spec.rollout.steps
    following = status.rollout.step + 1
    needed = _needs_approval(draft, status.rollout, following)
    if needed and not status.rollout.approved:
        message = "waiting for approval: annotate with ecompile.dev/command='approve <token>'"
        draft.notes.insert(0, f"{module.name} is {message}")
        return status.model_copy(update={"message": message})
    waits = closed(draft)
    if waits:
        draft.notes.insert(0, f"{module.name} has passed its step and {waits}")
        return status.model_copy(update={"message": f"step passed; {waits}"})
    if following < len(steps):
        label = step_label(draft, status.rollout.model_copy(update={"step": following, "stage": Stage.CANARY}))
        draft.events.append(
            ModelEvent(
                type="Normal",
                reason="StepPassed",
                message=f"{finding.reason}; next {label}",
                module=module.name,
            )
        )
        return _enter_step(draft, module, following, approved=status.rollout.approved and not needed)
    return promote(draft, module, finding.reason)


def _no_data(draft: Draft, module: ObservedModule, finding: Finding) -> CompiledModuleStatus:
    """Not enough is known. Past the step's deadline `onNoData` says what to do."""
    status = draft.modules[module.name]
    step = draft.spec.rollout.steps[status.rollout.step]
    if seconds_since(status.rollout.since, draft.now) < step.deadline_seconds:
        return status
    match draft.spec.rollout.analysis.on_no_data:
        case OnNoData.WAIT:
            return status.model_copy(update={"message": f"past its deadline, waiting (onNoData): {finding.reason}"})
        case (OnNoData.HOLD | OnNoData.NEURAL) as policy:
            return roll_back(
                draft,
                module,
                reason="NoData",
                detail=f"step deadline of {step.deadline_seconds} s passed: {finding.reason}",
                value=0.0,
                limit=float(step.deadline_seconds),
                by_human=policy is OnNoData.HOLD,
            )
        case _:
            assert_never(draft.spec.rollout.analysis.on_no_data)
