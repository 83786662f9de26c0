"""Storage: a default class with volumes made beforehand, and a class whose one volume is full after 1 MiB."""

from __future__ import annotations

import json
from pathlib import Path

from .addresses import NODE
from .console import run
from .paths import VOLUMES

CAPACITY = "5Gi"
"""What the objects say; nothing enforces it. The tiny volume says so too, or no claim would bind to it."""
NAMES = {**{f"standard-{index}": "standard" for index in range(8)}, "tiny-0": "tiny"}
"""Class of each volume."""
TINY_BYTES = 1 << 20


def make_directories() -> None:
    """Directories that any user in a container may write to."""
    for name in NAMES:
        directory = VOLUMES / name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)


def mount_tiny() -> None:
    """Give the tiny volume a file system of its own; called in the node's mount namespace, the host does not see it."""
    for name, storage_class in NAMES.items():
        if storage_class == "tiny":
            options = f"size={TINY_BYTES},mode=0777"
            run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", VOLUMES / name],
                what="making the tiny volume",
            )


def manifests() -> str:
    """The classes and volumes as one List."""
    classes = [
        _class("standard", {"storageclass.kubernetes.io/is-default-class": "true"}),
        _class("tiny", {}),
    ]
    volumes = [_volume(name, storage_class, VOLUMES / name) for name, storage_class in NAMES.items()]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*classes, *volumes]})


def _class(name: str, annotations: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }


def _volume(name: str, storage_class: str, directory: Path) -> dict[str, object]:
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": CAPACITY},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            # Emptied when its claim is deleted, and free for the next one: as with a provisioner.
            "persistentVolumeReclaimPolicy": "Recycle",
            "storageClassName": storage_class,
            "hostPath": {"path": str(directory), "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
