"""What Jobs cost is added up once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ecompile_crds.hybridmodel import CostStatus
from ecompile_crds.jobs import JobCost, JobKind
from ecompile_operator.decide.cost import add_costs
from ecompile_operator.decide.observed import JobPhase, ObservedJob, Rates
from hypothesis import given
from hypothesis import strategies as st

from .world import World

RATES = Rates(watts_per_core=10.0, price_per_core_hour=3.6, price_per_gpu_hour=36.0)


def job(name: str, *costs: JobCost, phase: JobPhase = JobPhase.SUCCEEDED) -> ObservedJob:
    return ObservedJob(name=name, kind=JobKind.DISTILL, life="life", phase=phase, costs=costs)


def run(cpu: float, **more: float) -> JobCost:
    return JobCost.model_validate({"cpuSeconds": cpu, **more})


def test_runs_add_up_with_energy_and_price() -> None:
    first = run(100.0, peakMemoryBytes=5, gpuSeconds=10.0, gpuJoules=700.0)
    found = add_costs(None, [job("a", first, run(50.0, peakMemoryBytes=9)), job("b", run(1.0))], RATES)
    assert found == CostStatus(
        runs=3,
        cpu_seconds=151.0,
        gpu_seconds=10.0,
        peak_memory_bytes=9,
        joules=1510.0 + 700.0,
        method="modelled: 10 W per core, +-50%; GPUs measured by NVML",
        price=0.251,
        counted=["a", "b"],
    )


def test_each_job_is_counted_once_and_forgotten_when_it_is_gone() -> None:
    jobs = [job("a", run(1.0))]
    first = add_costs(None, jobs, RATES)
    assert add_costs(first, jobs, RATES) is first
    gone = add_costs(first, [], RATES)
    assert gone is not None and gone.counted == [] and gone.cpu_seconds == 1.0
    again = add_costs(first, [*jobs, job("b", run(2.0))], RATES)
    assert again is not None and (again.runs, again.cpu_seconds, again.counted) == (2, 3.0, ["a", "b"])


def test_jobs_that_run_or_left_no_report_are_not_counted() -> None:
    assert add_costs(None, [job("a", run(1.0), phase=JobPhase.RUNNING), job("b")], RATES) is None


@given(st.lists(st.lists(st.floats(0, 1e6), max_size=3), max_size=6), st.randoms())
def test_the_sum_does_not_depend_on_when_jobs_are_seen(cpus: list[list[float]], random: object) -> None:
    jobs = [job(f"job-{n}", *(run(cpu) for cpu in each)) for n, each in enumerate(cpus)]
    at_once = add_costs(None, jobs, RATES)
    found = None
    for n in range(len(jobs) + 1):
        found = add_costs(found, jobs[:n], RATES)
    assert (found is None) == (at_once is None)
    if found is not None and at_once is not None:
        assert found.runs == at_once.runs and found.counted == at_once.counted
        assert found.cpu_seconds == pytest.approx(at_once.cpu_seconds, abs=0.01)


def test_a_model_s_status_has_the_cost_of_its_jobs() -> None:
    world = World()
    world.settle()
    world.finish_job()
    world.jobs = {name: replace(each, costs=(run(2.5),)) for name, each in world.jobs.items()}
    world.settle()
    assert world.status.cost is not None and world.status.cost.cpu_seconds == 2.5
    assert world.status.cost.joules == 20.0
