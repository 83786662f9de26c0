"""Jobs: how many are kept, what of a partial result is used, which results are refused, why they wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ecompile_crds.compiledmodule import Stage
from ecompile_crds.conditions import is_true
from ecompile_crds.errors import Code
from ecompile_crds.jobs import DistillReport, Failure, JobInput, JobKind, JobResult, ProfileReport, ValidateReport
from ecompile_operator.decide.observed import JobPhase
from ecompile_operator.decide.results import refusal
from ecompile_operator.decide.waiting import NO_POD, SUSPENDED, sentence

from .world import SOURCE_DIGEST, World, make_spec


def finished(world: World, kind: JobKind) -> list[str]:
    return sorted(j.name for j in world.jobs.values() if j.kind is kind and j.phase is not JobPhase.RUNNING)


def revalidations(world: World, count: int) -> None:
    """Roll back and validate again, some times."""
    for number in range(count):
        world.command = f"rollback r-{number}"
        world.step()
        world.report(comparisons=0)
        world.step()
        world.command = f"retry t-{number}"
        world.step()
        world.settle()
        world.finish_job()
        world.settle()
        world.command = f"promote p-{number}"
        world.step()
        assert world.stage() is Stage.PROMOTED


def test_the_newest_finished_jobs_of_each_kind_are_kept() -> None:
    world = World(spec=make_spec(jobs={"history": 2})).to_promoted()
    revalidations(world, 5)
    world.settle()
    assert len(finished(world, JobKind.VALIDATE)) == 2
    assert len(finished(world, JobKind.PROFILE)) == len(finished(world, JobKind.DISTILL)) == 1


def test_a_job_is_not_deleted_before_its_result_is_in_the_status() -> None:
    world = World(spec=make_spec(jobs={"history": 0})).to_validating()
    world.finish_job()
    world.step()
    assert world.last is not None and world.last.module_updates
    assert finished(world, JobKind.VALIDATE)
    world.step()
    assert not finished(world, JobKind.VALIDATE)
    world.settle()
    assert world.stage() is Stage.VALIDATED
    assert not world.running()


def test_a_paused_model_keeps_its_jobs() -> None:
    world = World(spec=make_spec(jobs={"history": 0})).to_validating()
    world.spec = world.spec.model_copy(update={"suspend": True})
    world.generation += 1
    world.finish_job()
    world.step()
    world.step()
    assert finished(world, JobKind.VALIDATE)


def to_distilling(segments: int = 2) -> World:
    world = World(segments=segments)
    world.settle()
    world.finish_job()
    world.settle()
    return world


def end(world: World, results: dict[int, JobResult], *, phase: JobPhase = JobPhase.SUCCEEDED) -> None:
    job = world.running()[0]
    world.jobs[job.name] = replace(job, phase=phase, results=results)
    world.step()


def paying(segment: int, **changes: object) -> DistillReport:
    values: dict[str, object] = {
        "segment": segment,
        "pays": True,
        "bundle_uri": "file:///artifacts/b.eco",
        "bundle_digest": f"sha256:{segment:064x}",
    }
    return DistillReport.model_validate({**values, **changes})


def broken(*, retryable: bool) -> JobResult:
    return JobResult(failure=Failure(code=Code.MODEL_UNSUPPORTED, message="no kernel", retryable=retryable))


def test_a_segment_that_cannot_be_distilled_does_not_cost_the_others() -> None:
    world = to_distilling()
    end(world, {0: JobResult(distill=paying(0)), 1: broken(retryable=False)}, phase=JobPhase.FAILED)
    assert world.status.life is not None and world.status.life.distilled
    assert [s.pays for s in world.status.life.segments] == [True, False]
    assert world.status.life.segments[1].reason == "[2002] no kernel"


def test_a_failure_that_may_pass_is_not_taken_for_final() -> None:
    world = to_distilling()
    end(world, {0: JobResult(distill=paying(0)), 1: broken(retryable=True)}, phase=JobPhase.FAILED)
    assert world.status.life is not None and not world.status.life.distilled
    assert is_true(world.status.conditions, "Stalled")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (paying(3), "segment 3, which was not asked for"),
        (paying(0, bundle_digest="sha256:short"), "has no digest"),
        (paying(0, bundle_digest=None), "has no digest"),
        (paying(0, bundle_uri="file:///etc/passwd"), "outside the artifact store"),
        (paying(0, bundle_uri="file:///artifacts/../etc/passwd"), "outside the artifact store"),
    ],
)
def test_a_distillation_that_does_not_fit_is_refused(report: DistillReport, said: str) -> None:
    world = to_distilling(segments=1)
    end(world, {0: JobResult(distill=report)})
    assert said in world.status.message and "is refused" in world.status.message
    assert is_true(world.status.conditions, "Stalled") and not world.modules


def told(kind: JobKind, **changes: object) -> JobInput:
    values: dict[str, object] = {
        "namespace": "a",
        "model": "net",
        "job": "j",
        "life": "l",
        "source_uri": "file:///artifacts/net.onnx",
        "calibration_uri": "file:///artifacts/c.npz",
        "artifacts_uri": "file:///artifacts",
    }
    return JobInput.model_validate({**values, "kind": kind, **changes})


def profile(**changes: object) -> JobResult:
    values: dict[str, object] = {"source_digest": SOURCE_DIGEST, "plan_uri": "file:///artifacts/p.json", "segments": ()}
    return JobResult(profile=ProfileReport.model_validate({**values, **changes}))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (profile(), ""),
        (profile(source_digest="sha256:" + "b" * 64), "read a source with digest"),
        (profile(source_digest="none"), "is not one"),
        (profile(plan_uri="s3://elsewhere/p.json"), "outside the artifact store"),
        (profile(segments=[{"index": 1, "name": "a", "compilable": True}]), "not numbered from 0"),
        (JobResult(distill=paying(0)), "not a profile"),
    ],
)
def test_a_profile_must_fit_its_question(result: JobResult, said: str) -> None:
    found = refusal(told(JobKind.PROFILE, source_digest=SOURCE_DIGEST), {0: result})
    assert (said in found) if said else found == ""


def test_a_validation_of_something_else_is_refused_and_held() -> None:
    world = World().to_validating()
    other = ValidateReport(segment=7, attempt=1, passed=True)
    end(world, {0: JobResult(validation=other)})
    assert world.stage() is Stage.HELD
    assert "is refused: it is about segment 7, not 0" in world.module().message


@pytest.mark.parametrize(
    ("reason", "message", "said"),
    [
        (
            "Unschedulable",
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes",
            "no node has a free nvidia.com/gpu",
        ),
        ("Unschedulable", "0/1 nodes are available: 1 Insufficient memory.", "no node has enough memory left"),
        ("Unschedulable", "1 node(s) had untolerated taint {gpu: true}.", "have the taint gpu: true"),
        ("Unschedulable", "pod has unbound immediate PersistentVolumeClaims.", "claim for artifacts is not bound"),
        ("Unschedulable", "something new", "Unschedulable: something new"),
        ("ImagePullBackOff", "no such image", "the image cannot be pulled"),
        (NO_POD, "", "a quota or an admission webhook"),
        (SUSPENDED, "team-queue", "waits to be admitted by Kueue to queue team-queue"),
        ("", "", ""),
    ],
)
def test_why_a_pod_waits_is_a_sentence(reason: str, message: str, said: str) -> None:
    found = sentence(reason, message)
    assert said in found and "preemption" not in found


def test_a_stuck_job_is_explained_in_the_status() -> None:
    world = World()
    world.settle()
    job = world.running()[0]
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    world.jobs[job.name] = replace(job, phase=JobPhase.PENDING, reason="Unschedulable", message=message)
    world.step()
    assert "is pending: no node has a free nvidia.com/gpu" in world.status.message
