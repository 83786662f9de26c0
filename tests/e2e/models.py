"""Models under test: small, quick rollouts, several at once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from demo.cluster import Cluster, ClusterError, Manifest, load_example, wait_for
from demo.traffic import Rows, Traffic

QUICK_STEPS = [
    {"mode": "shadow", "compare": 1.0, "minComparisons": 30},
    {"mode": "canary", "weight": 0.5, "compare": 1.0, "minComparisons": 30},
]


def make_model(name: str, *, replicas: int = 1, steps: list[dict[str, Any]] | None = None, **spec: Any) -> Manifest:
    """The digits example under another name, quick to roll out."""
    manifest = load_example(
        **{
            "serving": {"replicas": replicas},
            "rollout": {"steps": steps or QUICK_STEPS},
            "revalidation": {"backoffSeconds": 2, "maxAttempts": 2},
            **spec,
        }
    )
    manifest["metadata"]["name"] = name
    return manifest


def held_out(artifacts: Path) -> Rows:
    """Rows that distillation never saw."""
    content = (artifacts / "digits" / "held_out.npz").read_bytes()
    rows: Rows = np.load(io.BytesIO(content))["inputs"]
    return rows


def wait_stage(cluster: Cluster, model: str, stage: str, *, seconds: float = 180) -> Manifest:
    """Wait until a module of the model is in a stage; returns the module."""

    def found() -> Manifest | None:
        return next((m for m in cluster.modules(model) if m.get("status", {}).get("phase") == stage), None)

    try:
        module: Manifest = wait_for(f"{model} in stage {stage}", found, seconds=seconds)
    except ClusterError as error:
        status = cluster.model(model).get("status", {})
        raise ClusterError(f"{error}; stages {cluster.stages(model)}, model says: {status.get('message')}") from error
    return module


def wait_message(cluster: Cluster, model: str, text: str, *, seconds: float = 120) -> Manifest:
    """Wait until the model's status message contains `text`; returns the status."""

    def found() -> Manifest | None:
        status: Manifest = cluster.model(model).get("status", {})
        return status if text in status.get("message", "") else None

    try:
        status: Manifest = wait_for(f"{model} saying {text!r}", found, seconds=seconds)
    except ClusterError as error:
        raise ClusterError(f"{error}; it says {cluster.model(model).get('status', {}).get('message')!r}") from error
    return status


def wait_serving(cluster: Cluster, model: str, *, replicas: int = 1, seconds: float = 180) -> None:
    """Wait until the pods are ready."""
    wait_for(
        f"{model} serving",
        lambda: int(cluster.model(model).get("status", {}).get("readyReplicas", 0)) >= replicas,
        seconds=seconds,
    )


def traffic_to(cluster: Cluster, model: str, artifacts: Path, *, source: str = "digits", **options: Any) -> Traffic:
    """Traffic against the model's Service, checked against its own network."""
    service = cluster.get("services", model)
    assert service is not None
    return Traffic(
        host=service["spec"]["clusterIP"],
        port=80,
        model=model,
        neural=(artifacts / source / "model.onnx").read_bytes(),
        rows=held_out(artifacts),
        **options,
    )
