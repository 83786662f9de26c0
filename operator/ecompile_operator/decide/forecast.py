"""What happens next, and when: `decide` itself, run on futures in which one thing happens.

Nothing here knows a rule of its own, so it cannot disagree with the operator. Called by `kubectl ecompile explain` and
by the walk of the abstract states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ecompile_crds.compiledmodule import CompiledModuleStatus
from ecompile_crds.hybridmodel import HybridModelStatus

from .commands import Verb
from .decide import decide
from .decision import Decision
from .futures import EVENTS, Cause
from .observed import (
    JobPhase,
    Observed,
    ObservedDeployment,
    ObservedJob,
    ObservedModule,
)

HORIZON = timedelta(days=3660)
"""Nothing that `spec` can ask for takes longer: `revalidation.maxAgeDays` ends at ten years."""
SETTLING = 12
"""More decisions than any single event causes at one moment."""
RESOLUTION = timedelta(seconds=1)


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
