"""Bad YAML fails at `kubectl apply` with a sentence that names the field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from demo.cluster import Cluster, ClusterError, load_example


def changed(path: str, value: object) -> dict[str, Any]:
    """The example with one field of its spec set."""
    manifest = copy.deepcopy(load_example())
    target = manifest["spec"]
    *parents, last = path.split(".")
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = value
    return manifest


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("nonsense", 1, "spec.nonsense"),
        ("source.format", "tensorflow", "spec.source.format"),
        ("source.uri", "ftp://x/y", "spec.source.uri"),
        ("source.digest", "sha256:123", "spec.source.digest"),
        ("equivalence.maxRelativeError", 0, "spec.equivalence.maxRelativeError"),
        ("equivalence.maxRelativeError", -1, "spec.equivalence.maxRelativeError"),
        ("equivalence.testInputs", 0, "spec.equivalence.testInputs"),
        ("serving.replicas", 0, "spec.serving.replicas"),
        ("serving.replicas", 100000, "spec.serving.replicas"),
        ("serving.protocols", ["rest", "rest"], "names a protocol twice"),
        ("serving.protocols", [], "spec.serving.protocols"),
        ("serving.protocols", ["thrift"], "spec.serving.protocols"),
        ("serving.autoscaling", {"minReplicas": 3, "maxReplicas": 2}, "must not be below minReplicas"),
        (
            "serving",
            {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}, "resources": {"limits": {"memory": "1Gi"}}},
            "resources.requests.cpu",
        ),
        ("distill.strategies", ["exact", "exact"], "name each strategy once"),
        ("rollout.steps", [{"mode": "canary"}], "first step must be a shadow step"),
        ("revalidation.schedule", "hourly", "spec.revalidation.schedule"),
        ("rollout.windows", [{"start": "25:00", "durationMinutes": 5}], "spec.rollout.windows"),
        ("rollout.steps", [{"mode": "shadow", "approval": "Required"}], "later step, or with spec.rollout.approval"),
        ("jobs.history", -1, "spec.jobs.history"),
        ("revalidation.maxAttempts", 0, "spec.revalidation.maxAttempts"),
        ("deletionPolicy", "Keep", "spec.deletionPolicy"),
        ("jobs.deadlineSeconds", 1, "spec.jobs.deadlineSeconds"),
    ],
)
def test_bad_field_is_named(cluster: Cluster, path: str, value: object, text: str) -> None:
    with pytest.raises(ClusterError, match=text):
        cluster.apply(changed(path, value))


def test_name_too_long_for_children_is_refused(cluster: Cluster) -> None:
    manifest = load_example()
    manifest["metadata"]["name"] = "x" * 41
    with pytest.raises(ClusterError, match="at most 40 characters"):
        cluster.apply(manifest)


def test_example_is_accepted_and_module_spec_is_immutable(cluster: Cluster) -> None:
    cluster.apply(load_example())
    digest = "sha256:" + "a" * 64
    module: dict[str, Any] = {
        "apiVersion": "ecompile.dev/v1alpha1",
        "kind": "CompiledModule",
        "metadata": {"name": "m"},
        "spec": {
            "modelRef": "digits",
            "segment": 0,
            "life": "abc",
            "bundle": {"uri": "file:///artifacts/x.eco", "digest": digest},
            "sourceDigest": digest,
            "evidence": {"kind": "sampled"},
        },
    }
    cluster.apply(module)
    module["spec"]["segment"] = 1
    with pytest.raises(ClusterError, match="spec is immutable"):
        cluster.apply(module)


@pytest.mark.parametrize(
    "field", ["hm.spec.source.digest", "hm.spec.rollout.analysis.driftLimit", "cmod.spec.modelRef"]
)
def test_explain_describes_fields(cluster: Cluster, field: str) -> None:
    text = cluster.kubectl("explain", field)
    assert "DESCRIPTION:" in text and "<empty>" not in text
