"""The development cluster with images loaded: what the demo and the end-to-end tests start from."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

from devcluster import build, images, inside, node, packages, paths
from devcluster.console import say

from .cluster import SYSTEM, Cluster, Manifest
from .images import load_images, name_of

PULL_POLICY = "Never"
VALUES: Manifest = {
    "image": {"pullPolicy": PULL_POLICY},
    "artifacts": {"pvc": {"namespaces": ["default"], "accessModes": ["ReadWriteMany"]}},
}
WORKER_IMAGE = name_of("worker")
TORCH_FROM = Path(sysconfig.get_path("purelib"))
"""The images here are made without torch, which is several GB: the training Job mounts this environment's."""


def start() -> Cluster:
    """Packages, binaries, cluster, images. What is there already is used.

    Raises DevclusterError where that fails.
    """
    node.require_root()
    packages.install_packages()
    build.build_all()
    images.pause_archive()
    node.up()
    load_images()
    return connect()


def connect() -> Cluster:
    """The running development cluster."""
    return Cluster(kubectl=str(paths.BIN / "kubectl"), helm=str(paths.BIN / "helm"), kubeconfig=paths.KUBECONFIG)


def signal_container(container: str, number: str) -> None:
    """Send a signal to a container's first process from outside; `container` as a Pod's status has it."""
    identifier = container.removeprefix("containerd://")
    command = ["ctr", "--namespace", "k8s.io", "task", "kill", "--signal", number, identifier]
    inside.capture(command, what=f"sending {number} to a container")


def collect_logs(cluster: Cluster) -> Path:
    """Write the operator's log, all objects and events beside the cluster's own logs; returns where they are."""
    target = paths.LOGS.parent.parent / "last-run"
    target.mkdir(parents=True, exist_ok=True)
    wanted = {
        "operator.log": ["-n", SYSTEM, "logs", "deployment/ecompile-operator", "--tail=-1"],
        "operator-previous.log": ["-n", SYSTEM, "logs", "deployment/ecompile-operator", "--previous", "--tail=-1"],
        "objects.txt": ["get", "hm,cmod,jobs,pods", "-A", "-o", "wide"],
        "events.txt": ["get", "events", "-A", "--sort-by=.lastTimestamp"],
        "models.yaml": ["get", "hm,cmod", "-A", "-o", "yaml"],
    }
    for name, arguments in wanted.items():
        command, env = cluster.kubectl_command(*arguments)
        (target / name).write_bytes(_output(command, env))
    for log in sorted(paths.LOGS.glob("*.log")):
        (target / log.name).write_bytes(log.read_bytes()[-1_000_000:])
    say(f"logs are in {target}")
    return target


def _output(command: list[str], env: dict[str, str]) -> bytes:
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    return done.stdout + done.stderr
