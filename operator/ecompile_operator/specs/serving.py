"""Serving Deployment and Service."""

from __future__ import annotations

from ecompile_crds.hybridmodel import HybridModelSpec
from ecompile_crds.names import COMPONENT_SERVING, LABEL_LIFE, LABEL_MODEL, ROUTING_PATH, routing_configmap

from ..decide.decision import DesiredServing
from ..kube.client import Manifest
from ..settings import Settings
from .metadata import Owner, labels, metadata
from .pod import container_security, env, pod_name_env, pod_security, volumes

PORT = 8080
GRPC_PORT = 8081
"""Open Inference Protocol v2 over gRPC; the Service has the same number."""
GRACE_SECONDS = 30
DRAIN_SECONDS = 3
"""Between the Pod's deletion and SIGTERM: time for endpoints to be updated everywhere."""


def selector(model: str) -> dict[str, str]:
    return {LABEL_MODEL: model, "app.kubernetes.io/component": COMPONENT_SERVING}


def build_deployment(desired: DesiredServing, owner: Owner, spec: HybridModelSpec, settings: Settings) -> Manifest:
    """Pods that serve one life; a new life is a rolling update that never goes below the wanted number."""
    pod_volumes, mounts = volumes(settings, read_only_artifacts=True, signing=False)
    pod_volumes.append({"name": "routing", "configMap": {"name": routing_configmap(owner.name), "optional": True}})
    mounts.append({"name": "routing", "mountPath": ROUTING_PATH, "readOnly": True})

    def probe(path: str, *, period: int, failures: int) -> Manifest:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period,
            "failureThreshold": failures,
            "timeoutSeconds": 5,
        }

    container = {
        "name": "serving",
        "image": settings.serving_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "ecompile_workers.serving"],
        "ports": [{"name": "http", "containerPort": PORT}, {"name": "grpc", "containerPort": GRPC_PORT}],
        "env": [
            *env(
                ECO_NAMESPACE=owner.namespace,
                ECO_MODEL=owner.name,
                ECO_LIFE=desired.life,
                ECO_PLAN_URI=desired.plan_uri,
                ECO_ARTIFACTS_URI=settings.artifacts_uri,
                ECO_CONTROL_ADDRESS=settings.control_address,
                ECO_ANALYSIS=spec.rollout.analysis.model_dump_json(by_alias=True),
                ECO_PORT=str(PORT),
                ECO_GRPC_PORT=str(GRPC_PORT),
                HOME="/tmp",
            ),
            pod_name_env(),
        ],
        "resources": spec.serving.resources.model_dump(mode="json", exclude_defaults=True),
        "securityContext": container_security(),
        "volumeMounts": mounts,
        "startupProbe": probe("/v2/health/live", period=1, failures=120),
        "readinessProbe": probe("/v2/health/ready", period=1, failures=2),
        "livenessProbe": probe("/v2/health/live", period=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, owner.name, COMPONENT_SERVING, extra_labels={LABEL_LIFE: desired.life}),
        "spec": {
            "replicas": spec.serving.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(owner.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels(owner.name, COMPONENT_SERVING, **{LABEL_LIFE: desired.life})},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": pod_security(),
                    "containers": [container],
                    "volumes": pod_volumes,
                },
            },
        },
    }


def build_service(desired: DesiredServing, owner: Owner) -> Manifest:
    """ClusterIP in front of the serving pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, desired.service_name, COMPONENT_SERVING),
        "spec": {
            "selector": selector(owner.name),
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"},
                {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
            ],
        },
    }
