"""Profile, distill and validate Jobs."""

from __future__ import annotations

from ecompile_crds.errors import EXIT_STATUS
from ecompile_crds.hybridmodel import Jobs
from ecompile_crds.jobs import JobInput, JobKind
from ecompile_crds.names import COMPONENT_JOB, LABEL_JOB, LABEL_LIFE, LABEL_MODULE

from ..decide.decision import DesiredJob
from ..kube.client import Manifest
from ..observe.jobs import QUEUE_LABEL
from ..settings import Settings
from .metadata import Owner, labels, metadata
from .pod import container_security, env, pod_name_env, pod_security, volumes

MAX_PARALLEL = 4
FINAL_EXIT_STATUSES = [EXIT_STATUS[1], EXIT_STATUS[2]]
"""Data and model faults: the same inputs fail the same way, so Kubernetes does not try again."""


def build_job(desired: DesiredJob, owner: Owner, jobs: Jobs, settings: Settings) -> Manifest:
    """The Job; everything it needs to know is in ECO_JOB_INPUT."""
    told: JobInput = desired.input
    ours = {LABEL_JOB: told.kind.value, LABEL_LIFE: told.life}
    if desired.owner_module is not None:
        ours[LABEL_MODULE] = desired.owner_module
    meta = metadata(owner, desired.name, COMPONENT_JOB, extra_labels=ours)
    if jobs.queue_name is not None:
        meta["labels"][QUEUE_LABEL] = jobs.queue_name
    pod_volumes, mounts = volumes(settings, read_only_artifacts=False, signing=told.kind is JobKind.DISTILL)
    template = jobs.template
    container = {
        "name": told.kind.value,
        "image": settings.worker_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "ecompile_workers.jobs"],
        "env": [
            *env(
                ECO_JOB_INPUT=told.model_dump_json(by_alias=True, exclude_none=True),
                ECO_CONTROL_ADDRESS=settings.control_address,
                HOME="/tmp",
            ),
            pod_name_env(),
            *env(**dict(settings.otel_env)),
            *settings.job_extra_env,
            *({"name": e.name, "value": e.value} for e in template.env),
        ],
        "resources": template.resources.model_dump(mode="json", exclude_defaults=True),
        "securityContext": container_security(),
        "volumeMounts": [*mounts, *settings.job_extra_mounts],
        "terminationMessagePolicy": "File",
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [*pod_volumes, *settings.job_extra_volumes],
        "nodeSelector": template.node_selector,
        "tolerations": template.tolerations,
    }
    if template.priority_class_name is not None:
        pod["priorityClassName"] = template.priority_class_name
    indexed = told.kind is JobKind.DISTILL
    retries = {"backoffLimitPerIndex": jobs.retries} if indexed else {"backoffLimit": jobs.retries}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            **retries,
            **({"suspend": True} if jobs.queue_name is not None else {}),
            "activeDeadlineSeconds": jobs.deadline_seconds,
            "ttlSecondsAfterFinished": jobs.ttl_seconds_after_finished,
            "completions": desired.completions,
            "parallelism": min(desired.completions, MAX_PARALLEL),
            "completionMode": "Indexed" if indexed else "NonIndexed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailIndex" if indexed else "FailJob",
                        "onExitCodes": {"operator": "In", "values": FINAL_EXIT_STATUSES},
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {"labels": labels(owner.name, COMPONENT_JOB, **ours)},
                "spec": pod,
            },
        },
    }
