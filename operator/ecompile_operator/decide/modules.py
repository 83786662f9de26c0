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
    Measurements,
    RollbackStatus,
    RolloutStatus,
    Stage,
    ValidationStatus,
)
from ecompile_crds.hybridmodel import Approval, OnNoData, StepMode
from ecompile_crds.jobs import JobInput, JobKind, ValidateReport

from .clock import backoff, from_text, seconds_since, to_condition_time, to_text
from .decision import DesiredJob, ModelEvent
from .draft import Draft
from .gate import Evidence, Finding, Verdict, delta_bound, fresh_reports, judge, total, unacknowledged
from .jobsteps import failure_of, find_job, job_name, state_of
from .life import job_input
from .observed import Counters, JobPhase, ObservedModule, ObservedPod, PodAlert, PodReport
from .recheck import next_due
from .results import refusal
from .windows import next_opening

POLL_SECONDS = 1.0
"""How often a rollout step is judged; pods report once a second."""
SLOT_RECHECK_SECONDS = 60.0
"""A free slot wakes who waits for it; this is for the case that the news of it was lost."""
FRESH_SECONDS = 30.0
"""For this long after a promotion its figures are looked at more often."""
ROLLBACK_WARN_SECONDS = 60.0
"""A rollback that a live pod has not acknowledged by then is shown as a warning; the pod's mounted ConfigMap and its
own breaker work meanwhile."""


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


def standing_alert(draft: Draft, module: ObservedModule) -> tuple[PodReport, PodAlert] | None:
    """An alert about this module that no earlier rollback has answered; gross faults first."""
    status = draft.modules[module.name]
    answered = status.last_rollback.generation if status.last_rollback is not None else 0
    found = [
        (report, alert)
        for report in reports_of(draft, module.spec.life)
        for alert in report.alerts
        if alert.segment == module.spec.segment and alert.generation > answered
    ]
    order = {"Breaker": 0, "Drift": 1, "Fallback": 2, "Latency": 3}
    return min(found, key=lambda f: (order[f[1].kind.value], f[0].pod), default=None)


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
        report, alert = found
        detail = f"{alert.detail or alert.kind.value} (pod {report.pod})"
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
            return _validate(draft, module)
        case Stage.VALIDATED:
            return _start_rollout(draft, module)
        case Stage.SHADOW | Stage.CANARY:
            return _judge_step(draft, module)
        case Stage.PROMOTED:
            fresh = seconds_since(rollout.since, draft.now) < FRESH_SECONDS
            draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS * (2 if fresh else 10)))
            return _recheck(draft, module)
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


def _validate(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    attempt = status.rollout.attempt
    name = job_name(draft.observed.name, JobKind.VALIDATE, module.name, str(attempt))
    job = find_job(draft.observed, name)
    draft.consulted.add(name)
    if job is None or job.phase in (JobPhase.PENDING, JobPhase.RUNNING):
        draft.jobs.append(DesiredJob(name=name, input=_validate_input(draft, module, name), owner_module=module.name))
        state = state_of(job) if job is not None else "is being created"
        draft.notes.append(f"Job {name}, which validates {module.name}, {state}")
        return status
    report = job.results[0].validation if 0 in job.results else None
    if job.phase is JobPhase.FAILED or report is None:
        failure = failure_of(job)
        return _validation_failed(draft, module, f"[{int(failure.code)}] {failure.message}", rejected=False)
    refused = refusal(_validate_input(draft, module, name), {0: job.results[0]})
    if refused:
        return _validation_failed(draft, module, f"the result of Job {name} is refused: {refused}.", rejected=False)
    validation = _validation_status(report)
    draft.modules[module.name] = status.model_copy(update={"validation": validation})
    if not report.passed:
        return _validation_failed(draft, module, report.reason, rejected=True)
    message = f"validation attempt {attempt} passed: {report.reason}" if report.reason else f"attempt {attempt} passed"
    draft.events.append(ModelEvent(type="Normal", reason="Validated", message=message, module=module.name))
    at, checker = to_text(draft.now), draft.observed.worker_image
    return enter(draft, module, Stage.VALIDATED, message, validated_at=at, checker=checker)


def _recheck(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    """Validate a promoted module again where that is due. It keeps serving meanwhile."""
    status = draft.modules[module.name]
    rollout = status.rollout
    if not rollout.checking:
        image = draft.observed.worker_image
        due = next_due(rollout, draft.spec.revalidation, name=module.name, image=image, now=draft.now)
        if due is None:
            return status
        if draft.now < due.at:
            draft.wakes.append(due.at)
            return status
        message = f"attempt {rollout.attempt + 1} while it serves: {due.why}"
        draft.events.append(ModelEvent(type="Normal", reason="Revalidating", message=message, module=module.name))
        started = rollout.model_copy(update={"checking": True, "attempt": rollout.attempt + 1, "not_before": ""})
        return status.model_copy(update={"rollout": started, "message": message})
    name = job_name(draft.observed.name, JobKind.VALIDATE, module.name, str(rollout.attempt))
    told = _validate_input(draft, module, name)
    job = find_job(draft.observed, name)
    draft.consulted.add(name)
    if job is None or job.phase in (JobPhase.PENDING, JobPhase.RUNNING):
        draft.jobs.append(DesiredJob(name=name, input=told, owner_module=module.name))
        return status
    report = job.results[0].validation if job.phase is JobPhase.SUCCEEDED and 0 in job.results else None
    if report is None or refusal(told, {0: job.results[0]}):
        return _recheck_failed(draft, module, failure_of(job).message)
    draft.modules[module.name] = status.model_copy(update={"validation": _validation_status(report)})
    if not report.passed:
        return _recheck_refused(draft, module, report.reason)
    message = f"validated again, attempt {rollout.attempt}: {report.reason}"
    draft.events.append(ModelEvent(type="Normal", reason="Revalidated", message=message, module=module.name))
    return _checked(draft, module, message, failures=0, validated_at=to_text(draft.now))


def _checked(draft: Draft, module: ObservedModule, message: str, **changes: object) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    changes = {"checking": False, "checker": draft.observed.worker_image, **changes}
    return status.model_copy(update={"rollout": status.rollout.model_copy(update=changes), "message": message})


def _recheck_failed(draft: Draft, module: ObservedModule, reason: str) -> CompiledModuleStatus:
    """Nothing is known of the module: tried again, and taken out of service once the attempts are used up."""
    rollout = draft.modules[module.name].rollout
    failures = rollout.failures + 1
    draft.events.append(ModelEvent(type="Warning", reason="ValidationFailed", message=reason, module=module.name))
    if failures >= draft.spec.revalidation.max_attempts:
        return _recheck_refused(draft, module, f"{failures} attempts to validate it again failed: {reason}")
    due = to_text(draft.now + backoff(draft.spec.revalidation.backoff_seconds, failures))
    message = f"validation while it serves failed, again at {due}: {reason}"
    return _checked(draft, module, message, failures=failures, not_before=due, checker=rollout.checker)


def _recheck_refused(draft: Draft, module: ObservedModule, reason: str) -> CompiledModuleStatus:
    draft.modules[module.name] = _checked(draft, module, reason)
    return roll_back(draft, module, reason="Revalidation", detail=reason, value=0.0, limit=0.0, by_human=False)


def _validate_input(draft: Draft, module: ObservedModule, name: str) -> JobInput:
    base = job_input(draft, kind=JobKind.VALIDATE, job=name)
    known = next((x for x in (draft.life, draft.serving) if x is not None and x.key == module.spec.life), draft.life)
    return base.model_copy(
        update={
            "life": module.spec.life,
            "source_digest": module.spec.source_digest,
            "plan_uri": known.plan_uri,
            "segment": module.spec.segment,
            "bundle_uri": module.spec.bundle.uri,
            "bundle_digest": module.spec.bundle.digest,
            "attempt": draft.modules[module.name].rollout.attempt,
        }
    )


def _validation_status(report: ValidateReport) -> ValidationStatus:
    return ValidationStatus(
        attempt=report.attempt,
        passed=report.passed,
        reason=report.reason,
        delta=report.delta,
        correlation=report.correlation,
        max_deviation=report.max_deviation,
        test_inputs=report.test_inputs,
        ood_inputs=report.ood_inputs,
        speedup=report.speedup,
        report_uri=report.report_uri,
    )


def _validation_failed(draft: Draft, module: ObservedModule, reason: str, *, rejected: bool) -> CompiledModuleStatus:
    """First validation: a failed verdict is final, a failed Job is for a human. Later ones: try again, then Held."""
    stage = draft.stage(module)
    draft.events.append(ModelEvent(type="Warning", reason="ValidationFailed", message=reason, module=module.name))
    if stage is Stage.VALIDATING and rejected:
        return enter(draft, module, Stage.REJECTED, f"validation failed: {reason}")
    failures = draft.modules[module.name].rollout.failures + 1
    if stage is Stage.VALIDATING:
        return enter(
            draft,
            module,
            Stage.HELD,
            f"validation did not finish: {reason} {retry_hint()}",
            failures=failures,
        )
    return _back_off(draft, module, failures, f"revalidation failed: {reason}")


def retry_hint() -> str:
    return "Fix the cause, then annotate the HybridModel with ecompile.dev/command='retry <token>'."


def _back_off(draft: Draft, module: ObservedModule, failures: int, reason: str) -> CompiledModuleStatus:
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


def _start_rollout(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
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
    waits = _storm(draft) or _soaking(draft, module) or _closed(draft) or _no_slot(draft)
    if waits:
        draft.notes.append(f"{module.name} {waits}")
        return status.model_copy(update={"message": waits})
    draft.events.append(ModelEvent(type="Normal", reason="RolloutStarted", message="step 1", module=module.name))
    return _enter_step(draft, module, 0, approved=status.rollout.approved)


def _closed(draft: Draft) -> str:
    """Why no window is open; empty where one is."""
    windows = draft.spec.rollout.windows
    opens = next_opening(windows, draft.now)
    if opens <= draft.now:
        return ""
    draft.wakes.append(opens)
    return f"waits for the window that opens at {to_condition_time(opens)}"


def _soaking(draft: Draft, module: ObservedModule) -> str:
    """Another module was promoted so recently that an alert could be about either; empty where none was."""
    soak = draft.spec.rollout.soak_seconds
    for other in draft.of_life(module.spec.life):
        since = from_text(draft.modules[other.name].rollout.since)
        if other.name == module.name or draft.stage(other) is not Stage.PROMOTED or since is None:
            continue
        until = since + timedelta(seconds=soak)
        if draft.now < until:
            draft.wakes.append(until)
            return f"waits until {to_condition_time(until)}: {other.name} was promoted recently (soakSeconds)"
    return ""


def _storm(draft: Draft) -> str:
    """So many models were rolled back at once that they share a cause; empty where they were not."""
    storm = draft.observed.fleet.storm
    if storm is None or draft.now >= storm.until:
        return ""
    draft.wakes.append(storm.until)
    return (
        f"waits: {storm.models} models were rolled back within {storm.window_seconds} s, mostly for {storm.reason}; "
        f"look for a cause that they share, such as an image, a node or a feature that stopped. "
        f"It goes on at {to_condition_time(storm.until)} where no more are"
    )


def _no_slot(draft: Draft) -> str:
    """Why no more rollouts may start; empty where one may."""
    fleet = draft.observed.fleet
    if fleet.limit and fleet.rollouts >= fleet.limit:
        why = f"{fleet.rollouts} rollouts run in the cluster, the operator's limit is {fleet.limit}"
    elif fleet.limit_per_namespace and fleet.rollouts_in_namespace >= fleet.limit_per_namespace:
        why = f"{fleet.rollouts_in_namespace} run in the namespace, the limit is {fleet.limit_per_namespace}"
    else:
        return ""
    draft.waits_for_slot = True
    draft.wakes.append(draft.now + timedelta(seconds=SLOT_RECHECK_SECONDS))
    return f"waits for other rollouts: {why}"


def _enter_step(draft: Draft, module: ObservedModule, index: int, *, approved: bool) -> CompiledModuleStatus:
    step = draft.spec.rollout.steps[index]
    stage = Stage.SHADOW if step.mode is StepMode.SHADOW else Stage.CANARY
    draft.wakes.append(draft.now + timedelta(seconds=POLL_SECONDS))
    generation = next_generation(draft)
    status = enter(draft, module, stage, "waiting for traffic", step=index, generation=generation, approved=approved)
    return status.model_copy(update={"measurements": None})


def _judge_step(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
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
    closed = _closed(draft)
    if closed:
        draft.notes.insert(0, f"{module.name} has passed its step and {closed}")
        return status.model_copy(update={"message": f"step passed; {closed}"})
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


def _no_data(draft: Draft, module: ObservedModule, finding: Finding) -> CompiledModuleStatus:
    """Not enough is known. Past the step's deadline `onNoData` says what to do."""
    status = draft.modules[module.name]
    step = draft.spec.rollout.steps[status.rollout.step]
    if seconds_since(status.rollout.since, draft.now) < step.deadline_seconds:
        return status
    match draft.spec.rollout.analysis.on_no_data:
        case OnNoData.WAIT:
            return status.model_copy(update={"message": f"past its deadline, waiting (onNoData): {finding.reason}"})
        case OnNoData.HOLD:
            return roll_back(
                draft,
                module,
                reason="NoData",
                detail=f"step deadline of {step.deadline_seconds} s passed: {finding.reason}",
                value=0.0,
                limit=float(step.deadline_seconds),
                by_human=True,
            )
        case OnNoData.NEURAL:
            return roll_back(
                draft,
                module,
                reason="NoData",
                detail=f"step deadline of {step.deadline_seconds} s passed: {finding.reason}",
                value=0.0,
                limit=float(step.deadline_seconds),
                by_human=False,
            )
        case _:
            assert_never(draft.spec.rollout.analysis.on_no_data)


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
    return _back_off(draft, module, rollout.failures, reason)


def _wait_to_revalidate(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
    status = draft.modules[module.name]
    due = from_text(status.rollout.not_before)
    if due is not None and draft.now < due:
        draft.wakes.append(due)
        draft.notes.append(f"{module.name} is revalidated at {status.rollout.not_before}")
        return status
    storm = _storm(draft)
    if storm:
        draft.notes.append(f"{module.name} {storm}")
        return status.model_copy(update={"message": storm})
    return revalidate(draft, module, "after rollback")


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
