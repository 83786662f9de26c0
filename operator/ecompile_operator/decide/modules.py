"""The life of one CompiledModule, one transition at a time.

Pending -> Validating -> Validated -> Shadow -> Canary -> Promoted
Shadow, Canary, Promoted -> RollingBack -> RolledBack -> Revalidating -> Validated ...
Validating -> Rejected; RolledBack -> Held; any -> Retired when its source is no longer wanted, and back when it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

from ecompile_crds.compiledmodule import (
    FINAL_STAGES,
    SERVING_STAGES,
    CompiledModuleStatus,
    Stage,
)

from .clock import from_text, seconds_since
from .decision import ModelEvent
from .draft import Draft
from .gate import unacknowledged
from .observed import AlertKind, MergedEvidence, ObservedModule, PodAlert
from .rollout import POLL_SECONDS, judge_step, start_rollout
from .stages import back_off, enter, ready_pods, reports_of, revalidate, roll_back
from .starting import storm
from .validation import recheck, validate

FRESH_SECONDS = 30.0
"""For this long after a promotion its figures are looked at more often."""
REFRESH_SECONDS = 600.0
"""How often the figures of a model in calm service are brought up to date for people. Alerts, lost pods and refusals
are news, which wake the model at once."""
ROLLBACK_WARN_SECONDS = 60.0
"""A rollback that a live pod has not acknowledged by then is shown as a warning; the pod's mounted ConfigMap and its
own breaker work meanwhile."""


GRAVEST_FIRST = tuple(AlertKind)


def standing_alert(draft: Draft, module: ObservedModule) -> tuple[str, PodAlert] | None:
    """An alert about this module that no earlier rollback has answered, and who raised it; gross faults first, and what
    one pod says before what only all of them together do."""
    status = draft.modules[module.name]
    answered = status.last_rollback.generation if status.last_rollback is not None else 0
    found = [
        (f"pod {report.pod}", alert)
        for report in reports_of(draft, module.spec.life)
        for alert in report.alerts
        if alert.segment == module.spec.segment and alert.generation > answered
    ]
    # What Alertmanager repeats may be about a module that was in service before this one.
    found += [
        ("Alertmanager", remote.alert)
        for remote in draft.observed.remote_alerts
        if remote.alert.segment == module.spec.segment
        and remote.first_generation > answered
        and remote.alert.generation >= status.rollout.generation
    ]
    if not found:
        found = _merged_alerts(draft, module, answered)
    return min(found, key=lambda f: (GRAVEST_FIRST.index(f[1].kind), f[0]), default=None)


def _merged_alerts(draft: Draft, module: ObservedModule, answered: int) -> list[tuple[str, PodAlert]]:
    """Sequential tests that are past the false-alarm interval on the evidence of all pods (decision 0013)."""
    since = max(draft.modules[module.name].rollout.generation, answered + 1)
    interval = draft.spec.rollout.analysis.false_alarm_interval
    return [
        (f"{merged.pods} pods together", to_alert(merged))
        for merged in draft.observed.evidence
        if merged.segment == module.spec.segment and merged.generation >= since and merged.e_value >= interval
    ]


def to_alert(merged: MergedEvidence) -> PodAlert:
    """Merged evidence as the alert of one pod."""
    of = f" in group {merged.group!r}" if merged.group else ""
    return PodAlert(
        kind=merged.kind,
        segment=merged.segment,
        value=merged.mean,
        limit=merged.limit,
        detail=f"mean {merged.mean:.3g}{of} over {merged.observations} observations, limit {merged.limit:g}; merged "
        f"e-value {merged.e_value:.3g}",
        generation=merged.generation,
    )


def answer_alerts(draft: Draft) -> None:
    """Rollbacks come before anything that advances, and do not wait for `suspend` to end."""
    if draft.serving is None:
        return
    for module in draft.of_life(draft.serving.key):
        if draft.stage(module) not in SERVING_STAGES:
            continue
        found = standing_alert(draft, module)
        if found is None:
            continue
        source, alert = found
        detail = f"{alert.detail or alert.kind.value} ({source})"
        if not draft.spec.rollout.auto_rollback:
            draft.notes.insert(0, f"{module.name}: {detail}; spec.rollout.autoRollback is off, waiting for a command")
            continue
        draft.modules[module.name] = roll_back(
            draft,
            module,
            reason=alert.kind.value,
            detail=detail,
            value=alert.value,
            limit=alert.limit,
            by_human=False,
        )


def advance_module(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    """The module's next status: unchanged, or one transition on."""
    status = draft.modules[module.name]
    rollout = status.rollout
    wanted = {draft.life.key} | ({draft.serving.key} if draft.serving is not None else set())
    if module.spec.life not in wanted and rollout.stage not in FINAL_STAGES:
        return _retire_when_unused(draft, module)
    if draft.spec.suspend and rollout.stage is not Stage.ROLLING_BACK:
        return status
    match rollout.stage:
        case Stage.PENDING:
            return enter(draft, module, Stage.VALIDATING, f"validation attempt {rollout.attempt}")
        case Stage.VALIDATING | Stage.REVALIDATING:
            return validate(draft, module)
        case Stage.VALIDATED:
            return start_rollout(draft, module)
        case Stage.SHADOW | Stage.CANARY:
            return judge_step(draft, module)
        case Stage.PROMOTED:
            fresh = seconds_since(rollout.since, draft.now) < FRESH_SECONDS
            draft.wakes.append(draft.now + timedelta(seconds=2 * POLL_SECONDS if fresh else REFRESH_SECONDS))
            return recheck(draft, module)
        case Stage.ROLLING_BACK:
            return _finish_rollback(draft, module)
        case Stage.ROLLED_BACK:
            return _wait_to_revalidate(draft, module)
        case Stage.RETIRED if module.spec.life in wanted:
            return revalidate(draft, module, "its source is wanted again", failures=0)
        case Stage.HELD | Stage.REJECTED | Stage.RETIRED:
            return status
        case _:
            assert_never(rollout.stage)


def _retire_when_unused(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    """Its source is no longer wanted; pods of that life that still run keep their last table until they are gone."""
    status = draft.modules[module.name]
    if any(p.life == module.spec.life for p in draft.observed.pods):
        draft.wakes.append(draft.now + timedelta(seconds=5))
        return status.model_copy(update={"message": "its source is no longer wanted; pods that serve it still run"})
    draft.events.append(
        ModelEvent(type="Normal", reason="Retired", message="its source is no longer served", module=module.name)
    )
    return enter(draft, module, Stage.RETIRED, "its source is no longer served")


def _finish_rollback(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    """Complete when every live pod has acknowledged, or is gone."""
    status = draft.modules[module.name]
    rollout = status.rollout
    life = module.spec.life
    missing = unacknowledged(ready_pods(draft, life), reports_of(draft, life), rollout.generation)
    if missing:
        draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS))
        message = f"rolling back: {len(missing)} pods have not acknowledged yet, {missing[0]} among them"
        if seconds_since(rollout.since, draft.now) > ROLLBACK_WARN_SECONDS:
            message += "; if it stays unreachable, delete that pod"
        draft.notes.insert(0, f"{module.name} {message}")
        return status.model_copy(update={"message": message})
    rollback = status.last_rollback
    if rollback is not None and rollback.routed_neural_in_seconds is None:
        took = round(seconds_since(rollback.at, draft.now), 3)
        rollback = rollback.model_copy(update={"routed_neural_in_seconds": took})
        draft.modules[module.name] = status.model_copy(update={"last_rollback": rollback})
        draft.events.append(
            ModelEvent(
                type="Normal",
                reason="RolledBack",
                message=f"all pods serve neural after {took:.3f} s",
                module=module.name,
            )
        )
    reason = f"{rollback.reason}: {rollback.detail}" if rollback is not None else "rolled back"
    return back_off(draft, module, rollout.failures, reason)


def _wait_to_revalidate(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    due = from_text(status.rollout.not_before)
    if due is not None and draft.now < due:
        draft.wakes.append(due)
        draft.notes.append(f"{module.name} is revalidated at {status.rollout.not_before}")
        return status
    waits = storm(draft)
    if waits:
        draft.notes.append(f"{module.name} {waits}")
        return status.model_copy(update={"message": waits})
    return revalidate(draft, module, "after rollback")
