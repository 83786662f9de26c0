"""From a Job and its Pods to an `ObservedJob`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ecompile_crds.jobs import JobCost, JobKind, JobResult
from ecompile_crds.names import LABEL_JOB, LABEL_LIFE, LABEL_MODULE
from pydantic import ValidationError

from ..decide.observed import JobPhase, ObservedJob
from ..decide.waiting import NO_POD, SUSPENDED
from ..kube.client import Manifest

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
JOB_LABEL = "batch.kubernetes.io/job-name"


def observe_job(job: Manifest, pods: list[Manifest]) -> ObservedJob | None:
    """None where the Job is not one of ours."""
    meta = job["metadata"]
    labels = meta.get("labels", {})
    if labels.get(LABEL_JOB) not in set(JobKind):
        return None
    mine = pods_of(job, pods)
    status = job.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", []) if c.get("status") == "True"}
    phase, reason, message = JobPhase.PENDING, "", ""
    if "Complete" in conditions:
        phase = JobPhase.SUCCEEDED
    elif "Failed" in conditions:
        phase = JobPhase.FAILED
        reason = _failure_reason(mine) or conditions["Failed"].get("reason", "")
        message = conditions["Failed"].get("message", "")
    elif any(p.get("status", {}).get("phase") == "Running" for p in mine):
        phase = JobPhase.RUNNING
    elif job["spec"].get("suspend"):
        reason, message = SUSPENDED, labels.get(QUEUE_LABEL, "")
    elif not mine and status.get("startTime"):
        reason = NO_POD
    else:
        reason, message = next(_waiting(mine), ("", ""))
    created = meta.get("creationTimestamp")
    return ObservedJob(
        name=meta["name"],
        kind=JobKind(labels[LABEL_JOB]),
        life=labels.get(LABEL_LIFE, ""),
        phase=phase,
        results=_results(mine),
        reason=reason,
        message=message,
        created_at=datetime.fromisoformat(created) if created else None,
        image=_image(job),
        completions=job["spec"].get("completions") or 1,
        module=labels.get(LABEL_MODULE, ""),
        finished_at=_finished_at(job),
        costs=_costs(mine),
    )


def _finished_at(job: Manifest) -> datetime | None:
    """`completionTime` is set on success only; a failed Job ends with its condition."""
    status = job.get("status", {})
    ended = [
        c.get("lastTransitionTime")
        for c in status.get("conditions", [])
        if c.get("type") in ("Complete", "Failed") and c.get("status") == "True"
    ]
    text = status.get("completionTime") or next(iter(ended), None)
    return datetime.fromisoformat(text) if text else None


def _image(job: Manifest) -> str:
    containers = job["spec"].get("template", {}).get("spec", {}).get("containers") or [{}]
    return str(containers[0].get("image", ""))


def pods_of(job: Manifest, pods: list[Manifest]) -> list[Manifest]:
    """The Pods of a Job."""
    return [p for p in pods if p["metadata"].get("labels", {}).get(JOB_LABEL) == job["metadata"]["name"]]


def lacks_results(job: Manifest, pods: list[Manifest]) -> bool:
    """Whether a finished Job has an index without a readable result among the Pods known here.

    Jobs and Pods arrive by two watches; the end of a Job may be known before the end of its Pod.
    """
    finished = {c["type"] for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True"}
    if not finished & {"Complete", "Failed"}:
        return False
    completions: int = job["spec"].get("completions", 1)
    return len(_results(pods_of(job, pods))) < completions


def _terminated(pod: Manifest) -> Iterator[dict[str, Any]]:
    for container in pod.get("status", {}).get("containerStatuses", []):
        state = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if state:
            yield state


def _results(pods: list[Manifest]) -> dict[int, JobResult]:
    """The newest readable termination message of each index; successes win over earlier failures."""
    found: dict[int, JobResult] = {}
    for pod in sorted(pods, key=lambda p: p["metadata"].get("creationTimestamp", "")):
        index = int(pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION, "0"))
        for state in _terminated(pod):
            try:
                result = JobResult.model_validate_json(state.get("message") or "{}")
            except ValidationError:
                continue
            if result == JobResult():
                continue
            if result.failure is None or found.get(index, result).failure is not None:
                found[index] = result
    return found


def _costs(pods: list[Manifest]) -> tuple[JobCost, ...]:
    """What each terminated container reported, by Pod name."""
    found = []
    for pod in sorted(pods, key=lambda p: p["metadata"]["name"]):
        for state in _terminated(pod):
            try:
                cost = JobResult.model_validate_json(state.get("message") or "{}").cost
            except ValidationError:
                continue
            if cost is not None:
                found.append(cost)
    return tuple(found)


def _failure_reason(pods: list[Manifest]) -> str:
    reasons = {state.get("reason", "") for pod in pods for state in _terminated(pod)}
    return "OOMKilled" if "OOMKilled" in reasons else ""


def _waiting(pods: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Why Pods do not start: (reason, message)."""
    for pod in pods:
        yield from waiting_reasons(pod)


def waiting_reasons(pod: Manifest) -> Iterator[tuple[str, str]]:
    """Image, configuration and scheduling trouble of one Pod."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            yield waiting["reason"], waiting.get("message", "")
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield condition.get("reason", "Unschedulable"), condition.get("message", "")
