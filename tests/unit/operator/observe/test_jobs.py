"""From Jobs and their Pods to ObservedJob."""

from __future__ import annotations

import pytest
from ecompile_crds.errors import Code
from ecompile_crds.jobs import DistillReport, Failure, JobCost, JobResult
from ecompile_operator.decide.observed import JobPhase
from ecompile_operator.observe.jobs import lacks_results, observe_job

from ..children import ended, job, pod

GOOD = JobResult(distill=DistillReport(segment=0, pays=False))
BAD = JobResult(failure=Failure(code=Code.CRASHED, message="it broke", retryable=True))


def test_results_are_read_by_completion_index() -> None:
    pods = [pod("a", index=0, result=GOOD), pod("b", index=1, result=BAD)]
    found = observe_job(job(completions=2, status=ended("Complete")), pods)
    assert found is not None
    assert found.phase is JobPhase.SUCCEEDED
    assert found.results == {0: GOOD, 1: BAD}


def test_a_success_outweighs_failed_attempts_of_its_index() -> None:
    pods = [
        pod("second", result=GOOD, created="2026-01-01T00:00:05Z"),
        pod("first", result=BAD, created="2026-01-01T00:00:01Z"),
    ]
    for order in (pods, pods[::-1]):
        found = observe_job(job(status=ended("Complete")), order)
        assert found is not None and found.results == {0: GOOD}


@pytest.mark.parametrize("message", ["", "Killed", "{}", '{"profile": 7}', "[1]"])
def test_a_message_that_is_no_result_is_ignored(message: str) -> None:
    found = observe_job(job(status=ended("Failed", "BackoffLimitExceeded", "too often")), [pod("a", result=message)])
    assert found is not None
    assert (found.phase, found.reason, found.message) == (JobPhase.FAILED, "BackoffLimitExceeded", "too often")
    assert found.results == {}


def test_what_every_pod_used_is_read_failed_ones_included() -> None:
    costs = [JobCost(cpu_seconds=1.5), JobCost(cpu_seconds=2.5, gpu_seconds=1.0)]
    pods = [
        pod("a", result=BAD.model_copy(update={"cost": costs[0]}), created="2026-01-01T00:00:01Z"),
        pod("b", result=GOOD.model_copy(update={"cost": costs[1]}), created="2026-01-01T00:00:05Z"),
        pod("c", result='{"cost": {"cpuSeconds": -1}}'),
        pod("d", result='{"cost": {"cpuSeconds": "NaN"}}'),
    ]
    found = observe_job(job(status=ended("Complete")), pods)
    assert found is not None and found.costs == tuple(costs)


def test_a_job_killed_for_memory_says_so() -> None:
    killed = pod("a", phase="Failed", result="", reason="OOMKilled")
    found = observe_job(job(status=ended("Failed", "BackoffLimitExceeded")), [killed])
    assert found is not None and found.reason == "OOMKilled"


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"])
def test_a_job_whose_image_is_missing_is_pending_with_the_reason(reason: str) -> None:
    waiting = pod("a", phase="Pending", waiting=(reason, "no such image"))
    found = observe_job(job(), [waiting])
    assert found is not None
    assert (found.phase, found.reason, found.message) == (JobPhase.PENDING, reason, "no such image")


def test_a_job_that_fits_no_node_is_pending_with_the_scheduler_s_words() -> None:
    unscheduled = pod("a", phase="Pending")
    unscheduled["status"] = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
        ],
    }
    found = observe_job(job(), [unscheduled])
    assert found is not None and (found.reason, found.message) == ("Unschedulable", "0/1 nodes are available")


def test_a_starting_container_is_no_trouble() -> None:
    found = observe_job(job(), [pod("a", phase="Pending", waiting=("ContainerCreating", ""))])
    assert found is not None and found.reason == ""


def test_a_running_pod_makes_a_running_job() -> None:
    found = observe_job(job(), [pod("a", phase="Running")])
    assert found is not None and found.phase is JobPhase.RUNNING


def test_pods_of_other_jobs_do_not_count() -> None:
    found = observe_job(job(), [pod("a", of="another", result=GOOD)])
    assert found is not None and found.results == {}


def test_a_job_that_is_not_ours_is_ignored() -> None:
    assert observe_job(job(kind="something"), []) is None


def test_a_finished_job_lacks_results_until_every_index_is_known() -> None:
    finished = job(completions=2, status=ended("Complete"))
    assert lacks_results(finished, [pod("a", index=0, result=GOOD)])
    assert not lacks_results(finished, [pod("a", index=0, result=GOOD), pod("b", index=1, result=GOOD)])
    assert not lacks_results(job(), [])


def test_a_job_that_kueue_has_not_admitted_is_suspended() -> None:
    made = job()
    made["spec"]["suspend"] = True
    made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    found = observe_job(made, [])
    assert found is not None and (found.reason, found.message) == ("Suspended", "team")


def test_a_started_job_without_a_pod_says_so() -> None:
    found = observe_job(job(status={"startTime": "2026-01-01T00:00:00Z"}), [])
    assert found is not None and found.reason == "NoPod"


def test_the_end_of_a_job_is_its_completion_or_its_failure() -> None:
    done = observe_job(job(status={**ended("Complete"), "completionTime": "2026-01-01T00:05:00Z"}), [])
    failed = ended("Failed")
    failed["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:06:00Z"
    broken = observe_job(job(status=failed), [])
    assert done is not None and done.finished_at is not None and done.finished_at.minute == 5
    assert broken is not None and broken.finished_at is not None and broken.finished_at.minute == 6
