"""What the Jobs of a model have used, added up: each run once, however often it is looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ecompile_crds.hybridmodel import CostStatus

from .observed import JobPhase, ObservedJob, Rates

UNCERTAINTY = 0.5
"""Of modelled energy. Servers draw some 4 to 12 W per busy core at the socket; what a core of this node draws is not
known without RAPL, which containers may not read."""
SECONDS_PER_HOUR = 3600.0


def add_costs(before: CostStatus | None, jobs: Iterable[ObservedJob], rates: Rates) -> CostStatus | None:
    """`before` and every finished Job that is not in it yet. Jobs that are gone are forgotten by name, not by cost."""
    ended = {job.name: job for job in jobs if job.phase in (JobPhase.SUCCEEDED, JobPhase.FAILED) and job.costs}
    counted = set(before.counted) if before is not None else set()
    fresh = [job for name, job in sorted(ended.items()) if name not in counted]
    names = sorted(ended)
    if not fresh:
        if before is None or names == before.counted:
            return before
        return before.model_copy(update={"counted": names})
    found = before if before is not None else CostStatus()
    runs = [cost for job in fresh for cost in job.costs]
    cpu, gpu = sum(c.cpu_seconds for c in runs), sum(c.gpu_seconds for c in runs)
    measured = sum(c.gpu_joules for c in runs if c.gpu_joules is not None)
    price = (cpu * rates.price_per_core_hour + gpu * rates.price_per_gpu_hour) / SECONDS_PER_HOUR
    method = f"modelled: {rates.watts_per_core:g} W per core, +-{UNCERTAINTY:.0%}"
    if measured or "NVML" in found.method:
        method += "; GPUs measured by NVML"
    return CostStatus(
        runs=found.runs + len(runs),
        cpu_seconds=round(found.cpu_seconds + cpu, 3),
        gpu_seconds=round(found.gpu_seconds + gpu, 3),
        peak_memory_bytes=max(found.peak_memory_bytes, *(c.peak_memory_bytes for c in runs)),
        joules=round(found.joules + cpu * rates.watts_per_core + measured, 1),
        method=method,
        price=round(found.price + price, 6),
        counted=names,
    )
