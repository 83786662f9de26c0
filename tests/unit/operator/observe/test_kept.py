"""What is kept of an object: everything that somebody reads, and not much more."""

from __future__ import annotations

import json

from ecompile_operator.kube.client import Manifest
from ecompile_operator.observe.kept import keep

from ..children import child, model


def serving_pod() -> Manifest:
    made = child("net-0", labels={"app.kubernetes.io/component": "serving", "ecompile.dev/life": "life1"})
    made["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000}
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    return {
        **made,
        "spec": {"containers": [{"name": "serving", "env": [{"name": "A", "value": "x" * 4000}]}]},
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0 of 3 nodes"},
                {"type": "Initialized", "status": "True"},
            ],
            "containerStatuses": [{"name": "serving", "imageID": "x" * 200, "state": {"waiting": waiting}}],
        },
    }


def test_a_serving_pod_is_kept_without_its_spec_and_with_why_it_waits() -> None:
    kept = keep(serving_pod(), "Pod").manifest()
    assert "spec" not in kept and "annotations" not in kept["metadata"]
    assert kept["status"]["phase"] == "Pending"
    assert [c["type"] for c in kept["status"]["conditions"]] == ["Ready", "PodScheduled"]
    assert kept["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert kept["metadata"]["labels"]["ecompile.dev/life"] == "life1"


def test_a_pod_of_a_job_is_kept_whole() -> None:
    pod = {**child("job-0", labels={"app.kubernetes.io/component": "job"}), "spec": {"nodeName": "a"}}
    assert keep(pod, "Pod").manifest() == pod


def test_a_model_comes_back_as_it_was_and_takes_less_than_its_text() -> None:
    made = model(version=7, status={"message": "a " * 2000})
    kept = keep(made, "HybridModel")
    assert kept.manifest() == made
    assert kept.version == 7
    assert len(kept.content) < len(json.dumps(made)) / 4
