"""`decide`: the order of the steps. abort > rollback > suspend > advance."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from ecompile_crds.conditions import Condition, ConditionType, merge
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import DeletionPolicy, FailureStatus, HybridModelStatus, ModelPhase
from ecompile_crds.jobs import JobKind

from .capacity import least_replicas
from .clock import to_condition_time
from .commands import answer_commands
from .cost import add_costs
from .decision import Decision, DesiredServing, ModelEvent, ModuleUpdate
from .draft import Draft
from .ending import end
from .jobsteps import REASON_CODES
from .life import advance_life, current_life, switch_serving
from .modules import advance_module, answer_alerts
from .observed import JobPhase, Observed, ObservedJob
from .routes import current_table, route
from .summary import summarise


def decide(observed: Observed, now: datetime) -> Decision:
    """What to bring about for one HybridModel. Pure: equal inputs give equal decisions.

    Where the spec cannot be read or someone else owns the Service, what serves keeps serving as it is.
    """
    observed = _in_order(observed)
    if observed.deleting:
        return end(observed, now)
    if observed.spec is None:
        return _stalled(observed, now, reason="InvalidSpec", message=observed.spec_error)
    spec = observed.spec
    draft = Draft(
        observed=observed,
        spec=spec,
        now=now,
        life=current_life(observed, spec),
        serving=observed.status.serving,
        modules={m.name: m.status for m in observed.modules},
    )
    last_command = answer_commands(draft, observed.status.last_command)
    answer_alerts(draft)
    failure = advance_life(draft, _failure(draft))
    switch_serving(draft)
    for module in observed.modules:
        if draft.modules[module.name].rollout == module.status.rollout:
            draft.modules[module.name] = advance_module(draft, module)
    if spec.suspend:
        draft.notes.append("suspended by spec.suspend; set it to false to go on")
    least = least_replicas(draft)
    serving = _serving(draft, least)
    routed = route(draft)
    status = observed.status.model_copy(
        update={
            "failure": failure,
            "last_command": last_command,
            "routing": routed.status,
            "neural_replicas": least,
            "cost": add_costs(observed.status.cost, observed.jobs, observed.rates),
            "audit_head": routed.audit[-1].hash if routed.audit else _audit_head(observed),
            "audit_sequence": routed.audit[-1].sequence if routed.audit else _audit_sequence(observed),
        }
    )
    updates = []
    for module in observed.modules:
        new = draft.modules[module.name].model_copy(update={"observed_generation": module.generation})
        if new != module.status:
            updates.append(ModuleUpdate(name=module.name, status=new))
    return Decision(
        status=summarise(draft, status),
        spec=spec,
        module_updates=tuple(updates),
        new_modules=tuple(draft.new_modules),
        audit=routed.audit,
        routing=routed.table,
        jobs=tuple(draft.jobs),
        delete_jobs=_obsolete_jobs(draft),
        serving=serving,
        events=tuple(draft.events),
        finalizer=spec.deletion_policy is DeletionPolicy.ORPHAN,
        waits_for_slot=draft.waits_for_slot,
        wake_at=min(draft.wakes, default=None),
    )


def _in_order(observed: Observed) -> Observed:
    """The same facts in one order, so that no decision depends on the order in which they were read."""
    return replace(
        observed,
        modules=tuple(sorted(observed.modules, key=lambda m: (m.spec.segment, m.name))),
        jobs=tuple(sorted(observed.jobs, key=lambda j: j.name)),
        pods=tuple(sorted(observed.pods, key=lambda p: p.name)),
        reports=tuple(sorted(observed.reports, key=lambda r: r.pod)),
        remote_alerts=tuple(sorted(observed.remote_alerts, key=repr)),
    )


def _obsolete_jobs(draft: Draft) -> tuple[str, ...]:
    """Unfinished Jobs that nobody waits for, because their life is neither wanted nor served; and Jobs that cannot
    start because of an image that is no longer the one in force: they are created again."""
    lives = {draft.life.key, draft.serving.key if draft.serving is not None else draft.life.key}
    image = draft.observed.worker_image

    def obsolete(job: ObservedJob) -> bool:
        if job.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED):
            return False
        waits_for_image = REASON_CODES.get(job.reason) is Code.IMAGE_UNAVAILABLE
        return job.life not in lives or (waits_for_image and job.image != image)

    return tuple(job.name for job in draft.observed.jobs if obsolete(job)) + _history(draft)


def _history(draft: Draft) -> tuple[str, ...]:
    """Finished Jobs beyond those to keep of each kind. What they found is in a status that was written before: a Job
    that this decision asked for is not among them, nor any while `suspend` keeps decisions from being made."""
    if draft.spec.suspend:
        return ()
    finished = [
        job
        for job in draft.observed.jobs
        if job.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED) and job.name not in draft.consulted
    ]
    found: list[str] = []
    for kind in JobKind:
        mine = sorted((j for j in finished if j.kind is kind), key=_ended, reverse=True)
        found += [job.name for job in mine[draft.spec.jobs.history :]]
    return tuple(sorted(found))


def _ended(job: ObservedJob) -> tuple[float, str]:
    time = job.finished_at or job.created_at
    return (time.timestamp() if time is not None else 0.0, job.name)


def _failure(draft: Draft) -> FailureStatus | None:
    """The recorded failure; one that is final is tried again when the spec changed or a human said `retry`."""
    failure = draft.observed.status.failure
    if failure is None:
        return None
    changed = draft.observed.generation != draft.observed.status.observed_generation
    if changed or draft.retry_jobs:
        return failure.model_copy(update={"code": 0, "message": ""})
    return failure


def _serving(draft: Draft, least: int) -> DesiredServing | None:
    if draft.serving is None or draft.serving.plan_uri is None:
        return None
    name = draft.spec.serving.service_name or draft.observed.name
    owner = draft.observed.service_owner
    if owner is not None:
        draft.stalled = (
            f"spec.serving.serviceName: a Service named {name} already belongs to {owner}; choose another name."
        )
        return None
    return DesiredServing(
        life=draft.serving.key, plan_uri=draft.serving.plan_uri, service_name=name, least_replicas=least
    )


def _audit_head(observed: Observed) -> str:
    return observed.audit.hash if observed.audit is not None else observed.status.audit_head


def _audit_sequence(observed: Observed) -> int:
    return observed.audit.sequence if observed.audit is not None else observed.status.audit_sequence


def _stalled(observed: Observed, now: datetime, *, reason: str, message: str) -> Decision:
    generation = observed.generation
    stalled = [
        Condition(type=ConditionType.STALLED.value, status="True", reason=reason, message=message),
        Condition(type=ConditionType.READY.value, status="False", reason=reason, message=message),
        Condition(type=ConditionType.RECONCILING.value, status="False", reason=reason, message=message),
    ]
    named = {c.type for c in stalled}
    kept = [c for c in observed.status.conditions if c.type not in named]
    current = [c.model_copy(update={"observed_generation": generation}) for c in (*stalled, *kept)]
    status: HybridModelStatus = observed.status.model_copy(
        update={
            "observed_generation": generation,
            "phase": ModelPhase.STALLED,
            "message": message,
            "conditions": list(merge(observed.status.conditions, current, now=to_condition_time(now))),
        }
    )
    events: tuple[ModelEvent, ...] = ()
    if observed.status.message != message:
        events = (ModelEvent(type="Warning", reason=reason, message=message),)
    return Decision(
        status=status, routing=current_table(observed.status.routing), finalizer=observed.finalizer, events=events
    )
