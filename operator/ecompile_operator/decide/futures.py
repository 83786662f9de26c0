"""Futures in which one thing happens: worlds that `forecast` asks `decide` about. No rule is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from ecompile_crds.compiledmodule import SERVING_STAGES
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import Step
from ecompile_crds.jobs import DistillReport, Failure, JobKind, JobResult, ProfileReport, SegmentReport, ValidateReport

from .life import segments_to_distill
from .observed import (
    AlertKind,
    Counters,
    GroupCounters,
    JobPhase,
    Observed,
    ObservedJob,
    ObservedModule,
    ObservedPod,
    PodAlert,
    PodReport,
)


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
    fairness = present.spec.equivalence.fairness if present.spec is not None else None
    names = fairness.groups if fairness is not None else []
    groups = tuple(GroupCounters(group=name, comparisons=ENOUGH) for name in names)
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
            groups=groups,
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
