"""The development cluster with everything installed: what the demo and the end-to-end tests start from."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from devcluster import build, images, node, paths
from devcluster.console import say

from .cluster import Cluster, Manifest, training_job, wait_for
from .images import build_images

VALUES: Manifest = {
    "image": {"pullPolicy": "Never"},
    "artifacts": {"pvc": {"namespaces": ["default"], "accessModes": ["ReadWriteMany"]}},
}


def start() -> Cluster:
    """Packages, binaries, images, cluster. What is there already is used."""
    build.install_packages()
    build.build_all()
    images.pause_archive()
    archives = build_images()
    was_up = node.is_running()
    node.up()
    if was_up:  # a starting node imports all archives by itself
        for archive in archives.values():
            images.load(archive)
    return Cluster(kubectl=str(paths.BIN / "kubectl"), helm=str(paths.BIN / "helm"), kubeconfig=paths.KUBECONFIG)


def artifacts_directory(cluster: Cluster) -> Path:
    """Where the artifact volume of namespace default is on this machine."""

    def bound() -> str:
        claim = cluster.get("persistentvolumeclaims", "ecompile-artifacts")
        return str((claim or {}).get("spec", {}).get("volumeName", ""))

    return paths.VOLUMES / str(wait_for("the artifact claim is bound", bound, seconds=30))


def train_example(cluster: Cluster) -> None:
    """Train the digits network in a Job of the cluster; torch comes from this machine's virtual environment."""
    say("training the digits network in a Job")
    cluster.apply(training_job(site_packages=Path(sysconfig.get_path("purelib"))))

    def done() -> bool:
        job = cluster.get("jobs", "digits-train") or {}
        return bool(job.get("status", {}).get("succeeded"))

    wait_for("training", done, seconds=240)
