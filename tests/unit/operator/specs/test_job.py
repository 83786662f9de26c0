"""Manifests of Jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ecompile_crds.hybridmodel import Jobs, JobTemplate, ResourceRequirements
from ecompile_crds.jobs import JobInput, JobKind
from ecompile_operator.decide.decision import DesiredJob
from ecompile_operator.kube.client import Manifest
from ecompile_operator.settings import Settings
from ecompile_operator.specs.job import build_job
from ecompile_operator.specs.metadata import Owner

OWNER = Owner("test", "net", "uid-1")
SETTINGS = Settings(worker_image="worker:1", control_address="control:8443")


def make_job(
    kind: JobKind = JobKind.PROFILE, *, completions: int = 1, jobs: Jobs | None = None, settings: Settings = SETTINGS
) -> Manifest:
    told = JobInput(
        kind=kind,
        namespace="test",
        model="net",
        job="net-job",
        life="life1",
        source_uri="file:///artifacts/net.onnx",
        calibration_uri="file:///artifacts/data.npz",
        artifacts_uri="file:///artifacts",
    )
    return build_job(DesiredJob(name="net-job", input=told, completions=completions), OWNER, jobs or Jobs(), settings)


def container(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


def variables(manifest: Manifest) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container(manifest)["env"]}


def mounts(manifest: Manifest) -> dict[str, str]:
    return {m["name"]: m["mountPath"] for m in container(manifest)["volumeMounts"]}


def test_the_job_belongs_to_the_model() -> None:
    meta = make_job()["metadata"]
    assert meta["ownerReferences"][0] | {"uid": "uid-1", "controller": True} == meta["ownerReferences"][0]
    assert meta["labels"]["app.kubernetes.io/managed-by"] == "ecompile-operator"
    assert meta["labels"]["ecompile.dev/job"] == "profile"
    assert meta["labels"]["ecompile.dev/life"] == "life1"


def test_pods_carry_the_labels_that_watches_select() -> None:
    labels = make_job()["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "ecompile-operator"
    assert labels["ecompile.dev/model"] == "net"


def test_the_job_is_told_its_input_as_json_with_the_contract_s_names() -> None:
    told = json.loads(variables(make_job())["ECO_JOB_INPUT"])
    assert told["sourceUri"] == "file:///artifacts/net.onnx"
    assert JobInput.model_validate(told).life == "life1"
    assert variables(make_job())["ECO_CONTROL_ADDRESS"] == "control:8443"


def test_faults_of_data_and_model_are_not_retried_and_evictions_do_not_count() -> None:
    spec = make_job(jobs=Jobs(retries=5))["spec"]
    assert spec["backoffLimit"] == 5
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [11, 12]}}
    assert rules[1]["action"] == "Ignore"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(("completions", "parallelism"), [(1, 1), (3, 3), (9, 4)])
def test_distillation_is_indexed_and_at_most_four_wide(completions: int, parallelism: int) -> None:
    spec = make_job(JobKind.DISTILL, completions=completions)["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (completions, parallelism)


def test_deadline_and_expiry_are_set() -> None:
    spec = make_job(jobs=Jobs(deadline_seconds=77))["spec"]
    assert spec["activeDeadlineSeconds"] == 77
    assert spec["ttlSecondsAfterFinished"] == 86400


def test_only_distillation_sees_the_signing_key() -> None:
    assert "signing" not in mounts(make_job(JobKind.PROFILE))
    assert "signing" not in mounts(make_job(JobKind.VALIDATE))
    assert mounts(make_job(JobKind.DISTILL))["signing"] == "/etc/ecompile/signing"


def test_pods_meet_the_restricted_standard_and_hold_no_api_token() -> None:
    pod = make_job()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    security = container(make_job())["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_token_is_for_us_alone_and_lies_where_the_contract_says() -> None:
    pod = make_job()["spec"]["template"]["spec"]
    token = next(v for v in pod["volumes"] if v["name"] == "token")["projected"]["sources"][0]["serviceAccountToken"]
    assert token["audience"] == "ecompile"
    assert f"{mounts(make_job())['token']}/{token['path']}" == "/var/run/secrets/ecompile/token"


def test_artifacts_in_a_bucket_need_no_claim() -> None:
    assert "artifacts" in mounts(make_job())
    assert "artifacts" not in mounts(make_job(settings=Settings(artifacts_uri="s3://bucket/x")))


def test_the_template_of_the_spec_is_applied() -> None:
    template = JobTemplate(
        node_selector={"disk": "fast"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        resources=ResourceRequirements(limits={"memory": "1Gi"}),
    )
    manifest = make_job(jobs=Jobs(queue_name="team-a", template=template))
    pod = manifest["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert container(manifest)["resources"] == {"limits": {"memory": "1Gi"}}
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"


def test_extra_volumes_mounts_and_variables_of_the_chart_are_added() -> None:
    settings = Settings(
        job_extra_volumes=({"name": "venv", "hostPath": {"path": "/opt/venv"}},),
        job_extra_mounts=({"name": "venv", "mountPath": "/venv"},),
        job_extra_env=({"name": "EXTRA", "value": "1"},),
    )
    manifest = make_job(settings=settings)
    assert mounts(manifest)["venv"] == "/venv"
    assert variables(manifest)["EXTRA"] == "1"
    assert manifest["spec"]["template"]["spec"]["volumes"][-1]["name"] == "venv"


def test_equal_inputs_give_equal_manifests() -> None:
    assert repr(make_job(JobKind.DISTILL)) == repr(make_job(JobKind.DISTILL))


def test_a_queued_job_starts_suspended_for_kueue_to_admit() -> None:
    queued = make_job(jobs=Jobs(queue_name="team"))
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert queued["spec"]["suspend"] is True
    assert "suspend" not in make_job()["spec"]


def test_each_segment_is_retried_on_its_own() -> None:
    spec = make_job(JobKind.DISTILL, completions=3, jobs=Jobs(retries=4))["spec"]
    assert spec["backoffLimitPerIndex"] == 4 and "backoffLimit" not in spec
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailIndex"
    spec = make_job(jobs=Jobs(retries=4))["spec"]
    assert spec["backoffLimit"] == 4 and "backoffLimitPerIndex" not in spec
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailJob"


def test_priority_and_time_to_live_are_the_user_s() -> None:
    jobs = Jobs(template=JobTemplate(priority_class_name="batch"), ttl_seconds_after_finished=600)
    spec = make_job(jobs=jobs)["spec"]
    assert spec["template"]["spec"]["priorityClassName"] == "batch"
    assert spec["ttlSecondsAfterFinished"] == 600
    assert "priorityClassName" not in make_job()["spec"]["template"]["spec"]


def test_a_validate_job_names_its_module() -> None:
    told = JobInput.model_validate_json(variables(make_job(JobKind.VALIDATE))["ECO_JOB_INPUT"])
    made = build_job(DesiredJob(name="v", input=told, owner_module="net-s0-1"), OWNER, Jobs(), SETTINGS)
    assert made["metadata"]["labels"]["ecompile.dev/module"] == "net-s0-1"
