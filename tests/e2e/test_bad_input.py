"""What users get wrong: each fault is a sentence in the status of its own model, and the others go on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo import development
from demo.cluster import SYSTEM, Cluster, wait_for
from devcluster import node, paths

from .models import make_model, traffic_to, wait_message, wait_serving, wait_stage

STEADY = "steady"


@pytest.fixture(scope="module", autouse=True)
def steady(cluster: Cluster, artifacts: Path) -> Iterator[None]:
    """A promoted model that must not notice anything, and an operator that must not restart on its own."""
    cluster.apply(make_model(STEADY))
    wait_serving(cluster, STEADY)
    with traffic_to(cluster, STEADY, artifacts, pause_seconds=0.05) as traffic:
        wait_stage(cluster, STEADY, "Promoted")
        yield
        assert cluster.stages(STEADY) == ["Promoted"]
    assert traffic.tally.failed == 0, traffic.tally.first_failure
    assert traffic.tally.wrong == 0
    pods = json.loads(cluster.kubectl("-n", SYSTEM, "get", "pods", "-o", "json"))["items"]
    assert all(c["restartCount"] == 0 for p in pods for c in p["status"]["containerStatuses"])
    cluster.kubectl("delete", "hm", STEADY)


def test_bad_files_are_named(cluster: Cluster, artifacts: Path) -> None:
    """Sources and data that are missing, broken, or not what they are said to be."""
    bad = artifacts / "bad"
    bad.mkdir(exist_ok=True)
    (bad / "model.onnx").write_bytes(b"this is not a network")
    with zipfile.ZipFile(bad / "hostile.pt2", "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch /artifacts/bad/owned'\ntR.")
    np.savez(bad / "shape.npz", inputs=np.zeros((10, 7), np.float32))
    np.savez(bad / "nan.npz", inputs=np.full((10, 64), np.nan, np.float32))
    np.savez(bad / "empty.npz", inputs=np.zeros((0, 64), np.float32))
    digits = {"uri": "file:///artifacts/digits/model.onnx", "format": "onnx"}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"source": {"uri": "file:///artifacts/nowhere.onnx"}}, "does not exist"),
        "notamodel": ({"source": {"uri": "file:///artifacts/bad/model.onnx"}}, "not a readable ONNX model"),
        "hostile": ({"source": {"uri": "file:///artifacts/bad/hostile.pt2", "format": "pt2"}}, "hostile.pt2"),
        "digest": ({"source": {**digits, "digest": "sha256:" + "0" * 64}}, "has digest"),
        "shape": ({"calibration": {"uri": "file:///artifacts/bad/shape.npz"}}, "rows have shape"),
        "nan": ({"calibration": {"uri": "file:///artifacts/bad/nan.npz"}}, "not finite"),
        "empty": ({"calibration": {"uri": "file:///artifacts/bad/empty.npz"}}, "no rows"),
    }
    jobs = {"retries": 0}
    cluster.apply(*(make_model(name, **{"jobs": jobs, **spec}) for name, (spec, _) in cases.items()))
    for name, (_, text) in cases.items():
        wait_message(cluster, name, text, seconds=180)
    assert not (bad / "owned").exists(), "a pickle in the source was executed"
    cluster.kubectl("delete", "hm", *cases)


def test_job_killed_for_memory_is_named(cluster: Cluster) -> None:
    """The sentence names the field to raise; raising it heals the model."""
    small = {"retries": 0, "template": {"resources": {"limits": {"memory": "40Mi"}}}}
    cluster.apply(make_model("hungry", jobs=small))
    status = wait_message(cluster, "hungry", "spec.jobs.template.resources.limits.memory", seconds=120)
    assert "OOMKilled" in status["message"]
    cluster.apply(make_model("hungry"))
    wait_stage(cluster, "hungry", "Shadow", seconds=180)
    cluster.kubectl("delete", "hm", "hungry")


def test_full_volume_is_named_and_heals(cluster: Cluster, artifacts: Path) -> None:
    """No room for what a Job makes: said in the status; with room again and `retry` the life goes on."""
    cluster.kubectl("create", "namespace", "tight")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "ecompile-artifacts"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "tiny",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    cluster.apply(claim, namespace="tight")
    tiny = paths.VOLUMES / "tiny-0"
    few = artifacts / "few"
    few.mkdir(exist_ok=True)
    (few / "model.onnx").write_bytes((artifacts / "digits" / "model.onnx").read_bytes())
    for name in ("calibration.npz", "held_out.npz"):
        np.savez_compressed(few / name, inputs=np.load(artifacts / "digits" / name)["inputs"][:400])
    node.inside(["cp", "-r", few, tiny / "digits"], what="copying the example")
    node.inside(["sh", "-c", f"cat /dev/zero > {tiny}/filler || true"], what="filling the volume")
    manifest = make_model("full", jobs={"retries": 0})
    cluster.apply(manifest, namespace="tight")

    def message() -> str:
        return str(cluster.model("full", "tight").get("status", {}).get("message", ""))

    wait_for("the fault in the status", lambda: "no space left" in message(), seconds=120)
    node.inside(["rm", tiny / "filler"], what="making room")
    cluster.annotate_command("full", "retry room-1", namespace="tight")
    wait_for("Shadow", lambda: cluster.stages("full", "tight") == ["Shadow"], seconds=180)
    cluster.kubectl("delete", "namespace", "tight", "--wait=false")


def test_missing_worker_image_is_named_and_heals(cluster: Cluster) -> None:
    """An upgrade to an image that does not exist: said in the status, and made good by the next upgrade."""
    absent = {**development.VALUES["image"], "worker": "ecompile/absent:0"}
    cluster.install({**development.VALUES, "image": absent})
    cluster.apply(make_model("imageless"))
    wait_message(cluster, "imageless", "ErrImageNeverPull", seconds=120)
    cluster.install(development.VALUES)
    wait_stage(cluster, "imageless", "Shadow", seconds=180)
    jobs = cluster.objects("jobs", labels="ecompile.dev/model=imageless")
    assert len(jobs) == len({job["metadata"]["labels"]["ecompile.dev/job"] for job in jobs}) == 3
    cluster.kubectl("delete", "hm", "imageless")


def test_service_of_someone_else_is_left_alone(cluster: Cluster) -> None:
    """A name that is taken is named, and freed names are used."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "labels": {"of": "someone"}},
        "spec": {"ports": [{"port": 80}], "selector": {"of": "someone"}},
    }
    cluster.apply(service)
    cluster.apply(make_model("clash", serving={"replicas": 1, "serviceName": "taken"}))
    wait_message(cluster, "clash", "already belongs to", seconds=120)
    found = cluster.get("services", "taken")
    assert found is not None and found["spec"]["selector"] == {"of": "someone"}
    cluster.kubectl("delete", "service", "taken")
    wait_serving(cluster, "clash", seconds=120)
    cluster.kubectl("delete", "hm", "clash")
