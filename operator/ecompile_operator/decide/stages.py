"""Entering a stage: what changes with it, and what is asked of the world on the way. Used by all that moves modules."""

from __future__ import annotations

from ecompile_crds.compiledmodule import (
    CompiledModuleStatus,
    RollbackStatus,
    RolloutStatus,
    Stage,
)
from ecompile_crds.hybridmodel import StepMode

from .clock import backoff, to_text
from .decision import ModelEvent
from .draft import Draft
from .gate import fresh_reports
from .observed import ObservedModule, ObservedPod, PodReport


def enter(draft: Draft, module: ObservedModule, stage: Stage, message: str, **changes: object) -> CompiledModuleStatus:
    """The module's status on entering a stage; `changes` go to the rollout record."""
    status = draft.modules[module.name]
    rollout = status.rollout.model_copy(update={"stage": stage, "since": to_text(draft.now), **changes})
    return status.model_copy(
        update={"rollout": rollout, "phase": stage, "step": step_label(draft, rollout), "message": message}
    )


def step_label(draft: Draft, rollout: RolloutStatus) -> str:
    """Such as `2/3 canary 50%`; empty outside a rollout step."""
    steps = draft.spec.rollout.steps
    if rollout.stage not in (Stage.SHADOW, Stage.CANARY) or rollout.step >= len(steps):
        return ""
    step = steps[rollout.step]
    share = f" {step.weight:.0%}" if step.mode is StepMode.CANARY else ""
    return f"{rollout.step + 1}/{len(steps)} {step.mode.value}{share}"


def next_generation(draft: Draft) -> int:
    """The routing generation that a change decided now comes into force with."""
    return draft.observed.status.routing.generation + 1


def ready_pods(draft: Draft, life: str) -> tuple[ObservedPod, ...]:
    """Ready pods that serve `life`."""
    return tuple(p for p in draft.observed.pods if p.life == life and p.ready)


def reports_of(draft: Draft, life: str) -> tuple[PodReport, ...]:
    """Fresh reports of live pods that serve `life`."""
    live = {p.name for p in draft.observed.pods}
    return tuple(r for r in fresh_reports(draft.observed.reports, draft.now) if r.life == life and r.pod in live)


def roll_back(
    draft: Draft,
    module: ObservedModule,
    *,
    reason: str,
    detail: str,
    value: float,
    limit: float,
    by_human: bool,
) -> CompiledModuleStatus:
    """Out of service, now. A human's rollback is not undone by the operator: it ends in Held."""
    before = draft.modules[module.name]
    failures = 0 if before.rollout.stage is Stage.PROMOTED else before.rollout.failures + 1
    if by_human:
        failures = draft.spec.revalidation.max_attempts
    generation = next_generation(draft)
    status = enter(
        draft,
        module,
        Stage.ROLLING_BACK,
        f"{reason}: {detail}",
        generation=generation,
        failures=failures,
        approved=False,
    )
    draft.events.append(
        ModelEvent(type="Warning", reason="RollingBack", message=f"{reason}: {detail}", module=module.name)
    )
    rollback = RollbackStatus(
        reason=reason, detail=detail, value=value, limit=limit, at=to_text(draft.now), generation=generation
    )
    return status.model_copy(update={"last_rollback": rollback, "rollbacks": before.rollbacks + 1})


def promote(draft: Draft, module: ObservedModule, reason: str) -> CompiledModuleStatus:
    """Into full service."""
    draft.events.append(ModelEvent(type="Normal", reason="Promoted", message=reason, module=module.name))
    return enter(
        draft,
        module,
        Stage.PROMOTED,
        reason,
        generation=next_generation(draft),
        step=len(draft.spec.rollout.steps),
    )


def revalidate(draft: Draft, module: ObservedModule, why: str, **changes: object) -> CompiledModuleStatus:
    """A new validation attempt."""
    attempt = draft.modules[module.name].rollout.attempt + 1
    draft.events.append(
        ModelEvent(type="Normal", reason="Revalidating", message=f"attempt {attempt}, {why}", module=module.name)
    )
    return enter(
        draft,
        module,
        Stage.REVALIDATING,
        f"attempt {attempt}, {why}",
        attempt=attempt,
        not_before="",
        **changes,
    )


def back_off(draft: Draft, module: ObservedModule, failures: int, reason: str) -> CompiledModuleStatus:
    """RolledBack with a date, or Held where the attempts are used up or nobody asked for revalidation."""
    revalidation = draft.spec.revalidation
    if failures >= revalidation.max_attempts or not revalidation.on_drift:
        why = f"{failures} of {revalidation.max_attempts} attempts used" if revalidation.on_drift else "onDrift is off"
        message = f"Held ({why}): {reason}. {retry_hint()}"
        draft.events.append(ModelEvent(type="Warning", reason="Held", message=message, module=module.name))
        return enter(draft, module, Stage.HELD, message, failures=failures, not_before="")
    due = draft.now + backoff(revalidation.backoff_seconds, failures)
    draft.wakes.append(due)
    return enter(
        draft,
        module,
        Stage.ROLLED_BACK,
        f"{reason}; revalidation at {to_text(due)}",
        failures=failures,
        not_before=to_text(due),
    )


def retry_hint() -> str:
    return "Fix the cause, then annotate the HybridModel with ecompile.dev/command='retry <token>'."
