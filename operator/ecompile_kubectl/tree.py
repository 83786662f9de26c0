"""`status`: one model as a tree, from what is recorded and, where they could be read, live figures of its pods."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ecompile_crds.compiledmodule import CompiledModuleStatus, Measurements
from ecompile_crds.hybridmodel import CostStatus
from ecompile_operator.decide.observed import JobPhase, Observed, ObservedJob, ObservedModule

from .live import PodFigures
from .times import age, duration


def lines(observed: Observed, live: Mapping[str, PodFigures], now: datetime) -> list[str]:
    """The whole tree."""
    status = observed.status
    head = [f"HybridModel {observed.namespace}/{observed.name}: {status.phase.value}"]
    if status.message:
        head.append(f"  {status.message}")
    head.append(f"  {_figures(observed)}")
    if status.cost is not None:
        head.append(f"  {_cost(status.cost)}")
    if status.last_command is not None:
        answered = status.last_command
        head.append(f"  last command: {answered.command}: {answered.answer} ({age(answered.executed_at, now)} ago)")
    branches = [
        *(_module(m, now) for m in sorted(observed.modules, key=lambda m: (m.spec.segment, m.name))),
        _serving(observed, live),
        *(_job(j, now) for j in observed.jobs if j.phase not in (JobPhase.SUCCEEDED, JobPhase.FAILED)),
    ]
    return head + _tree(branches)


def _tree(branches: list[list[str]]) -> list[str]:
    found = []
    for index, (first, *rest) in enumerate(branches):
        last = index == len(branches) - 1
        found.append(f"{'└─' if last else '├─'} {first}")
        found += [f"{'  ' if last else '│ '}   {line}" for line in rest]
    return found


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _figures(observed: Observed) -> str:
    status = observed.status
    speedup = f"{status.speedup:g}x" if status.speedup is not None else "-"
    return (
        f"answered by code {_share(status.deterministic_coverage)}, proven {_share(status.proven_coverage)}, "
        f"speed-up {speedup}, evidence {status.evidence or 'none in service'}, "
        f"routing generation {status.routing.generation}"
    )


def _cost(cost: CostStatus) -> str:
    gpus = f", {cost.gpu_seconds:.0f} s of GPUs" if cost.gpu_seconds else ""
    price = f", price {cost.price:.4g}" if cost.price else ""
    return (
        f"Jobs so far: {cost.runs} runs, {cost.cpu_seconds:.1f} s of processors, at most "
        f"{cost.peak_memory_bytes / 2**20:.0f} MiB{gpus}, {cost.joules:.0f} J ({cost.method}){price}"
    )


def _module(module: ObservedModule, now: datetime) -> list[str]:
    spec, status = module.spec, module.status
    stage = f"{status.rollout.stage.value} {status.step}".strip()
    since = age(status.rollout.since, now)
    found = [f"segment {spec.segment}: CompiledModule {module.name}: {stage}{f' for {since}' if since else ''}"]
    speedup = f", speed-up {spec.speedup:g}x" if spec.speedup is not None else ""
    found.append(f"evidence {spec.evidence.label()}{speedup}, strategy {spec.strategy}")
    if status.message:
        found.append(status.message)
    found += _measured(status.measurements)
    found += _rollback(status, now)
    return found


def _measured(measured: Measurements | None) -> list[str]:
    if measured is None:
        return []
    parts = [f"{measured.requests} requests", f"{measured.comparisons} comparisons"]
    if measured.mean_delta is not None:
        parts.append(f"mean delta {measured.mean_delta:.2e}")
    if measured.delta_bound is not None:
        parts.append(f"bound {measured.delta_bound:.2e}")
    if measured.fallback_rate is not None:
        parts.append(f"fallback {measured.fallback_rate:.2%}")
    if measured.speedup is not None:
        parts.append(f"{measured.speedup:g}x as fast as neural")
    return [f"this step: {', '.join(parts)}"]


def _rollback(status: CompiledModuleStatus, now: datetime) -> list[str]:
    rollback = status.last_rollback
    if rollback is None:
        return []
    took = rollback.routed_neural_in_seconds
    done = f"all pods neural after {took:.3f} s" if took is not None else "not yet acknowledged by all pods"
    return [f"rolled back {age(rollback.at, now)} ago: {rollback.reason}: {rollback.detail}; {done}"]


def _serving(observed: Observed, live: Mapping[str, PodFigures]) -> list[str]:
    deployment, routing = observed.deployment, observed.status.routing
    if deployment is None:
        return ["serving: no Deployment yet"]
    found = [
        f"serving: {deployment.ready} of {deployment.replicas} pods ready, "
        f"{routing.acknowledged_pods} of {routing.live_pods} have acknowledged generation {routing.generation}"
    ]
    for pod in observed.pods:
        state = "ready" if pod.ready else pod.waiting_reason or "not ready"
        figures = live.get(pod.name)
        found.append(f"pod {pod.name}: {state}{f', {figures.sentence()}' if figures is not None else ''}")
    return found


def _job(job: ObservedJob, now: datetime) -> list[str]:
    since = f" for {duration((now - job.created_at).total_seconds())}" if job.created_at is not None else ""
    found = [f"Job {job.name}: {job.phase.value}{since}"]
    if job.reason:
        found.append(f"{job.reason}: {job.message}".rstrip(": "))
    return found
