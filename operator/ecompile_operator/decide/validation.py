"""Validating a module: before it may serve, after a rollback, and again while it serves."""

from __future__ import annotations

from ecompile_crds.compiledmodule import (
    CompiledModuleStatus,
    Stage,
    ValidationStatus,
)
from ecompile_crds.jobs import JobInput, JobKind, ValidateReport

from .clock import backoff, to_text
from .decision import DesiredJob, ModelEvent
from .draft import Draft
from .jobsteps import failure_of, find_job, job_name, state_of
from .life import job_input
from .observed import JobPhase, ObservedModule
from .recheck import next_due
from .results import refusal
from .stages import back_off, enter, retry_hint, roll_back


def validate(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
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


def recheck(draft: Draft, module: ObservedModule) -> CompiledModuleStatus:
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
    return back_off(draft, module, failures, f"revalidation failed: {reason}")
