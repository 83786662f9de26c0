"""Profile, distill and validate Jobs."""

from __future__ import annotations

from ecompile_crds.errors import EXIT_STATUS
from ecompile_crds.hybridmodel import Jobs
from ecompile_crds.jobs import JobInput, JobKind
from ecompile_crds.names import COMPONENT_JOB, LABEL_JOB, LABEL_LIFE, LABEL_MODULE

from ..decide.decision import DesiredJob
from ..kube.client import Manifest
from ..settings import Settings
from .metadata import Owner, labels, metadata
from .pod import container_security, env, pod_name_env, pod_security, volumes

KEEP_SECONDS = 86_400
"""Finished Jobs stay a day for their logs; results are in the status long before."""
MAX_PARALLEL = 4
FINAL_EXIT_STATUSES = [EXIT_STATUS[1], EXIT_STATUS[2]]
"""Data and model faults: the same inputs fail the same way, so Kubernetes does not try again."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


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
    indexed = told.kind is JobKind.DISTILL
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": jobs.retries,
            "activeDeadlineSeconds": jobs.deadline_seconds,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "completions": desired.completions,
            "parallelism": min(desired.completions, MAX_PARALLEL),
            "completionMode": "Indexed" if indexed else "NonIndexed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
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
