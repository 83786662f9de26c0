"""Serving Deployment and Service."""

from __future__ import annotations

from ecompile_crds.hybridmodel import HybridModelSpec, Isolation, Protocol
from ecompile_crds.names import COMPONENT_SERVING, LABEL_LIFE, LABEL_MODEL, ROUTING_PATH, routing_configmap

from ..decide.decision import DesiredServing
from ..kube.client import Manifest
from ..settings import Settings
from .metadata import Owner, labels, metadata
from .pod import container_security, env, pod_name_env, pod_security, volumes

PORT = 8080
GRPC_PORT = 8081
"""Open Inference Protocol v2 over gRPC; the Service has the same number."""
SERVICE_PORTS: dict[Protocol, Manifest] = {
    Protocol.REST: {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"},
    Protocol.GRPC: {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
}
SPREAD_OVER = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
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
                **_optional(spec),
                ECO_PORT=str(PORT),
                ECO_GRPC_PORT=str(GRPC_PORT),
                HOME="/tmp",
            ),
            pod_name_env(),
            *env(**dict(settings.otel_env)),
        ],
        "resources": spec.serving.resources.model_dump(mode="json", exclude_defaults=True),
        "securityContext": container_security(),
        "volumeMounts": mounts,
        "startupProbe": probe("/v2/health/live", period=1, failures=120),
        "readinessProbe": probe("/v2/health/ready", period=1, failures=2),
        "livenessProbe": probe("/v2/health/live", period=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    }
    priority = spec.serving.priority_class_name
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, owner.name, COMPONENT_SERVING, extra_labels={LABEL_LIFE: desired.life}),
        "spec": {
            # An autoscaler owns the number: the API server's default of 1 stands until it has counted.
            **(
                {"replicas": max(spec.serving.replicas, desired.least_replicas)}
                if spec.serving.autoscaling is None
                else {}
            ),
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(owner.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels(owner.name, COMPONENT_SERVING, **{LABEL_LIFE: desired.life})},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    **({"priorityClassName": priority} if priority is not None else {}),
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "topologySpreadConstraints": [_spread(owner.name, key) for key in SPREAD_OVER],
                    "securityContext": pod_security(),
                    "containers": [container],
                    "volumes": pod_volumes,
                },
            },
        },
    }


def _optional(spec: HybridModelSpec) -> dict[str, str]:
    """Settings that are not used are left out, so that a new one starts no rolling update of all models."""
    fairness, serving = spec.equivalence.fairness, spec.serving
    found = {}
    if fairness is not None:
        found["ECO_FAIRNESS"] = fairness.model_dump_json(by_alias=True)
    if serving.feedback.remember:
        found["ECO_FEEDBACK_IDS"] = str(serving.feedback.remember)
    if serving.carbon_region is not None:
        found["ECO_CARBON_REGION"] = serving.carbon_region
    if serving.isolation is not Isolation.NONE:
        found["ECO_ISOLATION"] = serving.isolation.value
    return found


def _spread(model: str, key: str) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(model)},
    }


def build_disruption_budget(owner: Owner, spec: HybridModelSpec) -> Manifest | None:
    """One Pod at a time may be drained; None where there is only one, which a budget would keep on its node."""
    scaling = spec.serving.autoscaling
    if (scaling.min_replicas if scaling is not None else spec.serving.replicas) < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, owner.name, COMPONENT_SERVING),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(owner.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def build_autoscaler(desired: DesiredServing, owner: Owner, spec: HybridModelSpec) -> Manifest | None:
    """By CPU; None where `spec.serving.autoscaling` is not set."""
    scaling = spec.serving.autoscaling
    if scaling is None:
        return None
    target = {"type": "Utilization", "averageUtilization": scaling.target_cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(owner, owner.name, COMPONENT_SERVING),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": owner.name},
            "minReplicas": max(scaling.min_replicas, desired.least_replicas),
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def build_service(desired: DesiredServing, owner: Owner, spec: HybridModelSpec) -> Manifest:
    """ClusterIP in front of the serving pods, with the ports of `spec.serving.protocols`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, desired.service_name, COMPONENT_SERVING),
        "spec": {
            "selector": selector(owner.name),
            "ports": [dict(port) for protocol, port in SERVICE_PORTS.items() if protocol in spec.serving.protocols],
        },
    }
