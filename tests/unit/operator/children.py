"""Builders of manifests as the API server would give them."""

from __future__ import annotations

from typing import Any

from ecompile_crds.jobs import JobResult
from ecompile_operator.kube.client import Manifest

NAMESPACE = "test"
UID = "model-uid"


def owned_by(uid: str, kind: str = "HybridModel") -> list[Manifest]:
    return [{"apiVersion": "x/v1", "kind": kind, "name": "net", "uid": uid, "controller": True}]


def child(name: str, *, version: int = 1, uid: str = UID, labels: dict[str, str] | None = None) -> Manifest:
    """Metadata of a child of the model `net`."""
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "resourceVersion": str(version),
            "uid": f"uid-{name}",
            "labels": {"ecompile.dev/model": "net", **(labels or {})},
            "ownerReferences": owned_by(uid),
        }
    }


def model(*, version: int = 1, name: str = "net", status: Manifest | None = None, **spec: Any) -> Manifest:
    """A HybridModel."""
    return {
        "kind": "HybridModel",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 3,
            "resourceVersion": str(version),
        },
        "spec": {
            "source": {"uri": "file:///artifacts/net.onnx"},
            "calibration": {"uri": "file:///artifacts/data.npz"},
            **spec,
        },
        "status": status or {},
    }


def job(
    name: str = "net-distill-1", *, kind: str = "distill", completions: int = 1, status: Manifest | None = None
) -> Manifest:
    labels = {"ecompile.dev/job": kind, "ecompile.dev/life": "life1"}
    return {**child(name, labels=labels), "spec": {"completions": completions}, "status": status or {}}


def ended(type_: str, reason: str = "", message: str = "") -> Manifest:
    return {"conditions": [{"type": type_, "status": "True", "reason": reason, "message": message}]}


def pod(
    name: str,
    *,
    of: str = "net-distill-1",
    index: int = 0,
    phase: str = "Succeeded",
    result: JobResult | str | None = None,
    reason: str = "Completed",
    waiting: tuple[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
) -> Manifest:
    """A Pod of a Job."""
    made = child(name, labels={"batch.kubernetes.io/job-name": of, "app.kubernetes.io/component": "job"})
    made["metadata"]["creationTimestamp"] = created
    made["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
    state: Manifest = {}
    if result is not None:
        message = result.to_message() if isinstance(result, JobResult) else result
        state = {"terminated": {"exitCode": 0, "reason": reason, "message": message}}
    if waiting is not None:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    return {**made, "status": {"phase": phase, "containerStatuses": [{"name": "c", "state": state}]}}
