"""How an object is kept in memory: the parts that somebody here reads, as compact JSON.

A parsed manifest takes about six times the memory of its text, and most of a serving Pod, Deployment or Service is
never read. Measured with 5,000 models in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ecompile_crds.names import COMPONENT_SERVING, LABEL_COMPONENT

from ..kube.client import Manifest

KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "labels",
    "ownerReferences",
)
KEPT_ANNOTATIONS = ("ecompile.dev/", "batch.kubernetes.io/")
"""Prefixes. What kubectl notes of an applied manifest, for one, is as large as the manifest."""
COMPRESS_BYTES = 1024
"""Texts above this are compressed: they take a third of the space, and 30 us to read."""
COMPRESSION_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """One object."""

    version: int
    content: bytes
    compressed: bool

    def manifest(self) -> Manifest:
        """A copy of what was kept."""
        text = zlib.decompress(self.content) if self.compressed else self.content
        found: Manifest = json.loads(text)
        return found


def keep(manifest: Manifest, kind: str) -> Kept:
    """The parts that are read of an object of that kind."""
    parts = {**TRIMMERS.get(kind, _whole)(manifest), "metadata": _metadata(manifest["metadata"])}
    content = json.dumps(parts, separators=(",", ":")).encode()
    compressed = len(content) > COMPRESS_BYTES
    if compressed:
        content = zlib.compress(content, COMPRESSION_LEVEL)
    return Kept(version_of(manifest), content, compressed)


def version_of(manifest: Manifest) -> int:
    """The resource version as a number: comparable within one kind (KEP-5504)."""
    return int(manifest["metadata"].get("resourceVersion") or 0)


def _metadata(meta: Mapping[str, Any]) -> Manifest:
    found = {name: meta[name] for name in KEPT_METADATA if name in meta}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k.startswith(KEPT_ANNOTATIONS)}
    return {**found, "annotations": annotations} if annotations else found


def _whole(manifest: Manifest) -> Manifest:
    return manifest


def _nothing_but_metadata(manifest: Manifest) -> Manifest:
    return {}


def _deployment(manifest: Manifest) -> Manifest:
    spec = manifest.get("spec", {})
    labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
    kept = {"replicas": spec["replicas"]} if "replicas" in spec else {}
    return {
        "spec": {**kept, "template": {"metadata": {"labels": labels}}},
        "status": manifest.get("status", {}),
    }


def _pod(manifest: Manifest) -> Manifest:
    """Whole for Jobs; of a serving Pod its phase, and why it is not ready."""
    if (manifest["metadata"].get("labels") or {}).get(LABEL_COMPONENT) != COMPONENT_SERVING:
        return manifest
    status = manifest.get("status", {})
    fields = ("type", "status", "reason", "message")
    return {
        "status": {
            "phase": status.get("phase"),
            "conditions": [
                {name: c[name] for name in fields if name in c}
                for c in status.get("conditions") or []
                if c.get("type") in ("Ready", "PodScheduled")
            ],
            "containerStatuses": [
                {"name": c.get("name"), "state": {"waiting": c["state"]["waiting"]}}
                for c in status.get("containerStatuses") or []
                if c.get("state", {}).get("waiting")
            ],
        }
    }


TRIMMERS: dict[str, Callable[[Manifest], Manifest]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "Service": _nothing_but_metadata,
    "HorizontalPodAutoscaler": _nothing_but_metadata,
    "PodDisruptionBudget": _nothing_but_metadata,
}
