"""What happens next, and when: `decide` itself, run on futures in which one thing happens.

Nothing here knows a rule of its own, so it cannot disagree with the operator. Called by `kubectl ecompile explain` and
by the walk of the abstract states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from ecompile_crds.compiledmodule import SERVING_STAGES, CompiledModuleStatus
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import HybridModelStatus, Step
from ecompile_crds.jobs import DistillReport, Failure, JobKind, JobResult, ProfileReport, SegmentReport, ValidateReport

from .commands import Verb
from .decide import decide
from .decision import Decision
from .gate import total
from .life import segments_to_distill
from .observed import (
    AlertKind,
    Counters,
    JobPhase,
    Observed,
    ObservedDeployment,
    ObservedJob,
    ObservedModule,
    ObservedPod,
    PodAlert,
    PodReport,
)

HORIZON = timedelta(days=90)
"""Nothing that `spec` can ask for takes longer: step deadlines end at 30 days, windows come round weekly."""
SETTLING = 12
"""More decisions than any single event causes at one moment."""
RESOLUTION = timedelta(seconds=1)


class Cause(StrEnum):
    """What may happen next. The value completes the sentence `when ...`."""

    TIME = "time passes and nothing else happens"
    JOB_SUCCEEDS = "the Job succeeds"
    JOB_REFUSES = "the Job finds that the module does not pass"
    JOB_FAILS = "the Job fails for good"
    PODS_READY = "all serving pods are ready"
    GOOD_TRAFFIC = "every pod reports enough traffic within the limits"
    ACKNOWLEDGED = "every pod acknowledges the routing table"
    ALERT = "a pod raises an alert"
    UNSUSPENDED = "spec.suspend is set to false"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that a future has and the present has not."""

    subject: str
    """Name of a module; empty for the HybridModel."""
    before: str
    after: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One possible next event and what it leads to."""

    cause: Cause
    changes: tuple[Change, ...]
    at: datetime | None = None
    """Only for TIME: when, at the latest to the second."""


@dataclass(frozen=True, kw_only=True)
class CommandOutlook:
    """What a command would be answered now."""

    verb: Verb
    answer: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The present as `decide` sees it, and what may come."""

    present: Observed
    decision: Decision
    outlooks: tuple[Outlook, ...]
    commands: tuple[CommandOutlook, ...]


def forecast(observed: Observed, now: datetime) -> Forecast:
    """Everything that can happen next to one model. Outlooks that change nothing are left out."""
    present, decision = settled(observed, now)
    outlooks = []
    due = next_change_by_itself(present, now)
    if due is not None:
        outlooks.append(due)
    for cause, happen in EVENTS.items():
        future = happen(present, now)
        if future is None:
            continue
        changes = _changes(present, settled(future, now)[0])
        if changes:
            outlooks.append(Outlook(cause=cause, changes=changes))
    commands = tuple(_command(present, verb, now) for verb in Verb)
    return Forecast(present=present, decision=decision, outlooks=tuple(outlooks), commands=commands)


def applied(observed: Observed, decision: Decision, now: datetime) -> Observed:
    """The world once a decision has been brought about, and nothing else has happened."""
    statuses = {update.name: update.status for update in decision.module_updates}
    modules = [replace(m, status=statuses.get(m.name, m.status)) for m in observed.modules]
    known = {m.name for m in modules}
    for new in decision.new_modules:
        if new.name not in known:
            status = CompiledModuleStatus()
            modules.append(ObservedModule(name=new.name, uid=new.name, generation=1, spec=new.spec, status=status))
    jobs = [job for job in observed.jobs if job.name not in decision.delete_jobs]
    names = {job.name for job in jobs}
    for wanted in decision.jobs:
        if wanted.name not in names:
            jobs.append(
                ObservedJob(
                    name=wanted.name,
                    kind=wanted.input.kind,
                    life=wanted.input.life,
                    phase=JobPhase.PENDING,
                    created_at=now,
                    image=observed.worker_image,
                    completions=wanted.completions,
                    module=wanted.owner_module or "",
                )
            )
    deployment = observed.deployment
    serving = decision.serving
    if serving is not None and (deployment is None or deployment.life != serving.life):
        replicas = observed.spec.serving.replicas if observed.spec is not None else 1
        deployment = ObservedDeployment(name=observed.name, life=serving.life, replicas=replicas)
    return replace(observed, status=decision.status, modules=tuple(modules), jobs=tuple(jobs), deployment=deployment)


def settled(observed: Observed, now: datetime) -> tuple[Observed, Decision]:
    """The world after the decisions that follow at once, and the last of them."""
    decision = decide(observed, now)
    for _ in range(SETTLING):
        after = applied(observed, decision, now)
        if after == observed:
            break
        observed, decision = after, decide(after, now)
    return observed, decision


def next_change_by_itself(present: Observed, now: datetime) -> Outlook | None:
    """When something changes though nothing happens: pods keep reporting what they report now.

    Looks ahead in doubling strides and narrows down, so that no rule about time is written here a second time.
    """
    early, late, future = now, None, present
    stride = RESOLUTION
    while early - now < HORIZON:
        later, decision = _wait(present, early + stride)
        wake = decision.wake_at
        if _changes(present, later):
            late, future = early + stride, later
            break
        early += stride
        stride = max(RESOLUTION, wake - early) if wake is not None and wake - early > stride else stride * 2
    if late is None:
        return None
    while late - early > RESOLUTION:
        middle = early + (late - early) / 2
        later, _ = _wait(present, middle)
        if _changes(present, later):
            late, future = middle, later
        else:
            early = middle
    return Outlook(cause=Cause.TIME, changes=_changes(present, future), at=late)


def _wait(present: Observed, until: datetime) -> tuple[Observed, Decision]:
    reports = tuple(replace(report, received_at=until) for report in present.reports)
    decision = decide(replace(present, reports=reports), until)
    return applied(present, decision, until), decision


def _changes(before: Observed, after: Observed) -> tuple[Change, ...]:
    """Stages of modules, then the model's own phase and what it serves."""
    old = {m.name: m.status for m in before.modules}
    found = []
    for module in after.modules:
        was = old.get(module.name)
        if was is None or was.rollout.stage is not module.status.rollout.stage or was.step != module.status.step:
            shown = _stage(was) if was is not None else "absent"
            found.append(
                Change(
                    subject=module.name,
                    before=shown,
                    after=_stage(module.status),
                    message=module.status.message,
                )
            )
    if _model(before.status) != _model(after.status):
        found.append(
            Change(
                subject="",
                before=_model(before.status),
                after=_model(after.status),
                message=after.status.message,
            )
        )
    names = {job.name for job in before.jobs}
    for job in after.jobs:
        if job.name not in names:
            found.append(Change(subject=job.name, before="absent", after="created"))
    return tuple(found)


def _stage(status: CompiledModuleStatus) -> str:
    return f"{status.rollout.stage.value} {status.step}".strip()


def _model(status: HybridModelStatus) -> str:
    life, serving = status.life, status.serving
    done = [word for word, yes in (("profiled", life and life.profiled), ("distilled", life and life.distilled)) if yes]
    served = f"serving {serving.key}" if serving is not None else ""
    return ", ".join(part for part in (status.phase.value, *done, served) if part)


def _command(present: Observed, verb: Verb, now: datetime) -> CommandOutlook:
    future = replace(present, command=f"{verb.value} forecast-{verb.value}")
    decision = decide(future, now)
    answer = decision.status.last_command.answer if decision.status.last_command is not None else ""
    changes = tuple(c for c in _changes(present, applied(present, decision, now)) if c.subject)
    return CommandOutlook(verb=verb, answer=answer, changes=changes)


def _waiting_job(present: Observed) -> ObservedJob | None:
    wanted = {job.name for job in present.jobs if job.phase in (JobPhase.PENDING, JobPhase.RUNNING)}
    return next((job for job in present.jobs if job.name in wanted), None)


def _with_job(present: Observed, job: ObservedJob) -> Observed:
    return replace(present, jobs=tuple(job if known.name == job.name else known for known in present.jobs))


def _job_succeeds(present: Observed, _: datetime) -> Observed | None:
    job = _waiting_job(present)
    if job is None:
        return None
    return _with_job(present, replace(job, phase=JobPhase.SUCCEEDED, results=_results(present, job, passed=True)))


def _job_refuses(present: Observed, _: datetime) -> Observed | None:
    job = _waiting_job(present)
    if job is None or job.kind is not JobKind.VALIDATE:
        return None
    return _with_job(present, replace(job, phase=JobPhase.SUCCEEDED, results=_results(present, job, passed=False)))


def _job_fails(present: Observed, _: datetime) -> Observed | None:
    job = _waiting_job(present)
    if job is None:
        return None
    failure = Failure(code=Code.CRASHED, message="the Job failed.", retryable=False)
    return _with_job(present, replace(job, phase=JobPhase.FAILED, results={0: JobResult(failure=failure)}))


def _results(present: Observed, job: ObservedJob, *, passed: bool) -> Mapping[int, JobResult]:
    """A full result such as the Job would leave; figures that no decision reads are left out."""
    digest = "sha256:" + "0" * 64
    match job.kind:
        case JobKind.PROFILE:
            segment = SegmentReport(index=0, name="segment 0", compilable=True)
            report = ProfileReport(source_digest=digest, plan_uri="file:///artifacts/plan.json", segments=(segment,))
            return {0: JobResult(profile=report)}
        case JobKind.DISTILL:
            uri = "file:///artifacts/bundle"
            spec, life = present.spec, present.status.life
            segments = segments_to_distill(life, spec.distill.max_segments) if spec and life else ()
            return {
                index: JobResult(
                    distill=DistillReport(segment=segment, pays=True, bundle_uri=uri, bundle_digest=digest)
                )
                for index, segment in enumerate(segments)
            }
        case JobKind.VALIDATE:
            module = next((m for m in present.modules if m.name == job.module), None)
            segment_index = module.spec.segment if module is not None else 0
            attempt = module.status.rollout.attempt if module is not None else 1
            reason = "measured" if passed else "measured values exceed the limits"
            validation = ValidateReport(segment=segment_index, attempt=attempt, passed=passed, reason=reason)
            return {0: JobResult(validation=validation)}


def _pods_ready(present: Observed, _: datetime) -> Observed | None:
    deployment = present.deployment
    if deployment is None:
        return None
    replicas = max(1, deployment.replicas)
    ready = replace(deployment, replicas=replicas, ready=replicas, updated=replicas)
    pods = tuple(ObservedPod(name=f"pod-{i}", life=deployment.life, ready=True) for i in range(replicas))
    have = [p for p in present.pods if p.life == deployment.life and p.ready]
    return replace(present, deployment=ready, pods=pods if len(have) < replicas else present.pods)


def _reports(present: Observed, now: datetime, counters: tuple[Counters, ...]) -> tuple[PodReport, ...]:
    """One report of each ready pod: everything acknowledged, the counters on the first of them."""
    generation = present.status.routing.generation
    return tuple(
        PodReport(
            pod=pod.name,
            life=pod.life,
            received_at=now,
            generation=generation,
            counters=counters if index == 0 else (),
        )
        for index, pod in enumerate(p for p in present.pods if p.ready)
    )


def _acknowledged(present: Observed, now: datetime) -> Observed | None:
    if not any(p.ready for p in present.pods):
        return None
    known = {report.pod: report for report in present.reports}
    reports = tuple(
        replace(known[fresh.pod], generation=fresh.generation, received_at=now) if fresh.pod in known else fresh
        for fresh in _reports(present, now, ())
    )
    return replace(present, reports=reports)


def _step_of(present: Observed, module: ObservedModule) -> Step | None:
    steps = present.spec.rollout.steps if present.spec is not None else []
    index = module.status.rollout.step
    return steps[index] if index < len(steps) else None


ENOUGH = 20_000_000
"""More comparisons than any gate can ask for."""


def _good_traffic(present: Observed, now: datetime) -> Observed | None:
    if not any(p.ready for p in present.pods):
        return None
    counters = tuple(
        Counters(
            segment=m.spec.segment,
            requests=ENOUGH,
            compiled=ENOUGH,
            guard_checked=ENOUGH,
            comparisons=ENOUGH,
            latency_samples=ENOUGH,
            compiled_p50_seconds=1e-5,
            neural_p50_seconds=1e-4,
        )
        for m in present.modules
        if m.status.rollout.stage in SERVING_STAGES and _step_of(present, m) is not None
    )
    return replace(present, reports=_reports(present, now, counters)) if counters else None


def _alert(present: Observed, now: datetime) -> Observed | None:
    serving = [m for m in present.modules if m.status.rollout.stage in SERVING_STAGES]
    reports = list(_reports(present, now, ()))
    if not serving or not reports:
        return None
    alerts = tuple(
        PodAlert(
            kind=AlertKind.BREAKER,
            segment=m.spec.segment,
            value=1.0,
            limit=0.0,
            detail="a breaker tripped",
            generation=present.status.routing.generation,
        )
        for m in serving
    )
    reports[0] = replace(reports[0], alerts=alerts)
    return replace(present, reports=tuple(reports))


def _unsuspended(present: Observed, _: datetime) -> Observed | None:
    if present.spec is None or not present.spec.suspend:
        return None
    return replace(present, spec=present.spec.model_copy(update={"suspend": False}))


Happen = Callable[[Observed, datetime], Observed | None]

EVENTS: Mapping[Cause, Happen] = {
    Cause.JOB_SUCCEEDS: _job_succeeds,
    Cause.JOB_REFUSES: _job_refuses,
    Cause.JOB_FAILS: _job_fails,
    Cause.PODS_READY: _pods_ready,
    Cause.ACKNOWLEDGED: _acknowledged,
    Cause.GOOD_TRAFFIC: _good_traffic,
    Cause.ALERT: _alert,
    Cause.UNSUSPENDED: _unsuspended,
}
"""Each answers with a world in which the thing has happened, or None where it cannot happen now."""


def figures(present: Observed, module: ObservedModule) -> Counters:
    """Sums of what pods reported since the module's step came into force."""
    return total(present.reports, module.spec.segment, module.status.rollout.generation)
