"""Pods' reports rebuilt from what the operator recorded in the status.

Reports live in the leader's memory. What a gate reads of them is in `status.measurements` and `status.routing`, so that
whoever may read the model can ask what will happen next.
"""

from __future__ import annotations

from datetime import datetime

from ecompile_crds.compiledmodule import Measurements, Stage
from ecompile_operator.decide.observed import Counters, Observed, ObservedModule, PodReport

NEURAL_P50_SECONDS = 1e-4
"""Any positive number: gates look at the quotient of two latencies, which is recorded."""


def recorded_reports(observed: Observed, now: datetime) -> tuple[PodReport, ...]:
    """One report per ready pod of the served life; the sums of all are on the first."""
    routing = observed.status.routing
    pods = [p for p in observed.pods if p.ready and p.life == routing.life]
    counters = tuple(c for c in map(_counters, observed.modules) if c is not None)
    reports = []
    for index, pod in enumerate(pods):
        acknowledged = index < routing.acknowledged_pods
        reports.append(
            PodReport(
                pod=pod.name,
                life=pod.life,
                received_at=now,
                generation=routing.generation if acknowledged else routing.generation - 1,
                counters=counters if index == 0 and acknowledged else (),
            )
        )
    return tuple(reports)


def _counters(module: ObservedModule) -> Counters | None:
    measured: Measurements | None = module.status.measurements
    if measured is None or module.status.rollout.stage not in (Stage.SHADOW, Stage.CANARY, Stage.PROMOTED):
        return None
    comparisons = measured.comparisons
    return Counters(
        segment=module.spec.segment,
        requests=measured.requests,
        compiled=measured.requests - measured.fallbacks,
        fallbacks=measured.fallbacks,
        guard_checked=measured.guard_checked,
        comparisons=comparisons,
        delta_sum=(measured.mean_delta or 0.0) * comparisons,
        delta_max=measured.max_delta or 0.0,
        compiled_p50_seconds=NEURAL_P50_SECONDS / measured.speedup if measured.speedup else 0.0,
        neural_p50_seconds=NEURAL_P50_SECONDS if measured.speedup else 0.0,
        latency_samples=comparisons,
    )
