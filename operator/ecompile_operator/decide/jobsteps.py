"""Running one Job to its end: when to create it, when to try again, when to give up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from ecompile_crds.errors import RETRYABLE, Code
from ecompile_crds.hybridmodel import FailureStatus
from ecompile_crds.jobs import Failure, JobInput, JobKind, JobResult
from ecompile_crds.names import short_hash

from .clock import backoff, from_text, to_text
from .decision import DesiredJob, ModelEvent
from .draft import Draft
from .observed import JobPhase, Observed, ObservedJob
from .results import refusal
from .waiting import sentence

MISSING_DATA_BACKOFF_SECONDS = 5.0
"""First wait for a file that is not there yet; doubles up to five minutes, without end: it may be uploaded later."""
MISSING_DATA_BACKOFF_LIMIT_SECONDS = 300.0

REASON_CODES = {
    "OOMKilled": Code.OUT_OF_MEMORY,
    "DeadlineExceeded": Code.DEADLINE_EXCEEDED,
    "ImagePullBackOff": Code.IMAGE_UNAVAILABLE,
    "ErrImagePull": Code.IMAGE_UNAVAILABLE,
    "ErrImageNeverPull": Code.IMAGE_UNAVAILABLE,
    "InvalidImageName": Code.IMAGE_UNAVAILABLE,
    "Unschedulable": Code.UNSCHEDULABLE,
}


def job_name(model: str, kind: JobKind, *parts: str) -> str:
    """Deterministic: the same inputs give the same name, so nothing is run twice."""
    return f"{model}-{kind.value}-{short_hash(kind.value, *parts)}"


def find_job(observed: Observed, name: str) -> ObservedJob | None:
    """The observed Job of that name."""
    return next((job for job in observed.jobs if job.name == name), None)


def failure_of(job: ObservedJob) -> Failure:
    """Why a Job failed: its own report where it left one, else what Kubernetes says."""
    reported = [result.failure for _, result in sorted(job.results.items()) if result.failure is not None]
    if reported:
        return next((f for f in reported if not f.retryable), reported[0])
    code = REASON_CODES.get(job.reason, Code.CRASHED)
    hint = {
        Code.OUT_OF_MEMORY: "Raise spec.jobs.template.resources.limits.memory.",
        Code.DEADLINE_EXCEEDED: "Raise spec.jobs.deadlineSeconds, or see why its Pod did not finish.",
        Code.IMAGE_UNAVAILABLE: "Check the worker image in the operator's chart values.",
        Code.UNSCHEDULABLE: "Check spec.jobs.template against the nodes.",
    }.get(code, "See the logs of its Pod.")
    detail = f": {job.message}" if job.message else ""
    reason = job.reason or "Failed"
    return Failure(code=code, message=f"Job {job.name} failed ({reason}){detail}. {hint}", retryable=code in RETRYABLE)


def state_of(job: ObservedJob) -> str:
    """Such as `is running`, or why it does not start."""
    hindrance = sentence(job.reason, job.message) if job.phase is JobPhase.PENDING else ""
    return f"is {job.phase.value.lower()}{f': {hindrance}' if hindrance else ''}"


def run_step(
    draft: Draft,
    failure: FailureStatus | None,
    *,
    step: str,
    kind: JobKind,
    parts: tuple[str, ...],
    make_input: Callable[[str], JobInput],
    completions: int,
) -> tuple[ObservedJob | None, FailureStatus | None]:
    """One step of a life: want its Job, wait for it, retry it, or give up.

    Returns the succeeded Job or None while there is none, and the failure record to keep.
    """
    mine = failure if failure is not None and failure.step == step else None
    attempts = mine.attempts if mine is not None else 0
    name = job_name(draft.observed.name, kind, *parts, str(attempts))
    job = find_job(draft.observed, name)
    draft.consulted.add(name)
    if job is None:
        return None, _want(draft, mine, name=name, make_input=make_input, completions=completions, kind=kind)
    match job.phase:
        case JobPhase.SUCCEEDED:
            missing = [i for i in range(completions) if i not in job.results]
            refused = refusal(make_input(name), job.results)
            if refused:
                why = Failure(code=Code.INTERNAL, message=f"Job {name} is refused: {refused}.", retryable=False)
                return None, _record(draft, step, attempts, why)
            if not missing:
                return job, None
            lost = Failure(
                code=Code.INTERNAL,
                message=f"Job {name} succeeded but left no result for index {missing[0]}.",
                retryable=True,
            )
            return None, _record(draft, step, attempts, lost)
        case JobPhase.FAILED if _useful(job, completions) and not refusal(make_input(name), _successes(job)):
            return job, None
        case JobPhase.FAILED:
            return None, _record(draft, step, attempts, failure_of(job))
        case JobPhase.PENDING | JobPhase.RUNNING:
            draft.jobs.append(DesiredJob(name=name, input=make_input(name), completions=completions))
            draft.notes.append(f"Job {name} {state_of(job)}")
            return None, mine


def _successes(job: ObservedJob) -> dict[int, JobResult]:
    return {index: result for index, result in job.results.items() if result.failure is None}


def _useful(job: ObservedJob, completions: int) -> bool:
    """Some indices succeeded, and the others failed for reasons that another attempt does not change: what there is
    is used, and those segments stay neural."""
    failures = [result.failure for result in job.results.values() if result.failure is not None]
    complete = set(job.results) >= set(range(completions))
    return completions > 1 and complete and bool(_successes(job)) and all(not f.retryable for f in failures)


def _want(
    draft: Draft,
    mine: FailureStatus | None,
    *,
    name: str,
    make_input: Callable[[str], JobInput],
    completions: int,
    kind: JobKind,
) -> FailureStatus | None:
    if mine is not None and mine.code != 0:
        if mine.code != Code.DATA_MISSING:
            draft.stalled = mine.message
            return mine
        at = from_text(mine.at) or draft.now
        due = at + backoff(
            MISSING_DATA_BACKOFF_SECONDS, mine.attempts - 1, limit_seconds=MISSING_DATA_BACKOFF_LIMIT_SECONDS
        )
        if draft.now < due:
            draft.notes.append(f"{mine.message} Looking again in {int((due - draft.now).total_seconds()) + 1} s.")
            draft.wakes.append(due)
            return mine
    if draft.spec.suspend:
        draft.notes.append("suspended by spec.suspend")
        return mine
    draft.jobs.append(DesiredJob(name=name, input=make_input(name), completions=completions))
    draft.events.append(
        ModelEvent(type="Normal", reason=f"{kind.value.capitalize()}Started", message=f"Created Job {name}.")
    )
    draft.notes.append(f"Job {name} is being created")
    draft.wakes.append(draft.now + timedelta(seconds=30))
    return mine


def _record(draft: Draft, step: str, attempts: int, failure: Failure) -> FailureStatus:
    draft.events.append(
        ModelEvent(type="Warning", reason="JobFailed", message=f"[{int(failure.code)}] {failure.message}")
    )
    if failure.code == Code.DATA_MISSING:
        draft.wakes.append(draft.now + timedelta(seconds=MISSING_DATA_BACKOFF_SECONDS))
        draft.notes.append(failure.message)
    else:
        draft.stalled = failure.message
    return FailureStatus(
        step=step,
        attempts=attempts + 1,
        code=int(failure.code),
        message=failure.message,
        at=to_text(draft.now),
    )
