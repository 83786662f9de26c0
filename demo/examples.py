"""The digits example: its manifests as the repository has them, with the few changes that a run makes."""

from __future__ import annotations

from pathlib import Path

import yaml

from .cluster import ROOT, Cluster, ClusterError, Manifest, wait_for

EXAMPLE = ROOT / "examples" / "digits"
TRAINING_JOB = "digits-train"
SOURCE = "file:///artifacts/digits"
TORCH_MOUNT = "/opt/torch"


def hybrid_model(name: str = "digits", **spec: object) -> Manifest:
    """The example's HybridModel under a name, with top-level fields of its spec replaced."""
    manifest: Manifest = yaml.safe_load((EXAMPLE / "hybridmodel.yaml").read_text())
    manifest["metadata"]["name"] = name
    manifest["spec"].update(spec)
    return manifest


def training_job(*, image: str, pull_policy: str, torch_from: Path | None) -> Manifest:
    """The example's training Job; with `torch_from`, torch comes from that directory of the node."""
    manifest: Manifest = yaml.safe_load((EXAMPLE / "train-job.yaml").read_text())
    pod = manifest["spec"]["template"]["spec"]
    container = pod["containers"][0]
    container.update(image=image, imagePullPolicy=pull_policy)
    if torch_from is not None:
        pod["volumes"].append({"name": "torch", "hostPath": {"path": str(torch_from), "type": "Directory"}})
        container["volumeMounts"].append({"name": "torch", "mountPath": TORCH_MOUNT, "readOnly": True})
        container["env"].append({"name": "PYTHONPATH", "value": TORCH_MOUNT})
    return manifest


def train(cluster: Cluster, job: Manifest, *, seconds: float = 300) -> None:
    """Run the training Job to its end; raises ClusterError where it fails."""
    cluster.apply(job)

    def done() -> bool:
        status = (cluster.get("jobs", TRAINING_JOB) or {}).get("status", {})
        if any(each["type"] == "Failed" and each["status"] == "True" for each in status.get("conditions", [])):
            raise ClusterError(f"training failed:\n{cluster.kubectl('logs', f'job/{TRAINING_JOB}', '--tail=20')}")
        return bool(status.get("succeeded"))

    wait_for("training", done, seconds=seconds, every=0.5)
