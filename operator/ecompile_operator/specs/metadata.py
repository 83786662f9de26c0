"""Metadata that all children share."""

from __future__ import annotations

from dataclasses import dataclass

from ecompile_crds.names import (
    API_VERSION,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_PART_OF,
    MANAGED_BY,
)

from ..kube.client import Manifest


@dataclass(frozen=True)
class Owner:
    """The HybridModel that a child belongs to."""

    namespace: str
    name: str
    uid: str

    def reference(self) -> Manifest:
        """Owner reference: deleting the model deletes the child."""
        return {
            "apiVersion": API_VERSION,
            "kind": "HybridModel",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def labels(model: str, component: str, **extra: str) -> dict[str, str]:
    """Standard labels (Kubernetes recommended labels) and ours."""
    return {
        "app.kubernetes.io/name": "ecompile",
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_PART_OF: "ecompile",
        LABEL_MODEL: model,
        **extra,
    }


def metadata(owner: Owner, name: str, component: str, *, extra_labels: dict[str, str] | None = None) -> Manifest:
    """Name, namespace, labels and owner reference."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner.name, component, **(extra_labels or {})),
        "ownerReferences": [owner.reference()],
    }
