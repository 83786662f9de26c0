"""ConfigMaps and Secrets: the routing table, the audit log, and what makes bundles trusted."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.names import (
    CA_KEY,
    CLIENT_SECRET,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_PART_OF,
    MANAGED_BY,
    ROUTING_KEY,
    SIGNING_KEY,
    SIGNING_PUBLIC_KEY,
    SIGNING_SECRET,
    TRUST_CONFIGMAP,
    audit_configmap,
    routing_configmap,
)
from ecompile_crds.routing import RoutingTable

from ..kube.client import Manifest
from .metadata import Owner, metadata

PLAIN_LABELS = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_PART_OF: "ecompile"}


def build_routing(owner: Owner, table: RoutingTable) -> Manifest:
    """The table in force, for pods that cannot reach the operator."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, routing_configmap(owner.name), "routing"),
        "data": {ROUTING_KEY: table.model_dump_json(by_alias=True, exclude_defaults=True)},
    }


def build_audit(namespace: str, model: str, key: str, text: str) -> Manifest:
    """The audit log. It has no owner: it outlives the model."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": audit_configmap(model),
            "namespace": namespace,
            "labels": {**PLAIN_LABELS, LABEL_MODEL: model},
        },
        "data": {key: text},
    }


def build_signing_secret(namespace: str) -> Manifest:
    """A new ed25519 key pair; only distill Jobs mount it."""
    private = Ed25519PrivateKey.generate()
    parts = {
        SIGNING_KEY: private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        SIGNING_PUBLIC_KEY: private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SIGNING_SECRET, "namespace": namespace, "labels": PLAIN_LABELS},
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in parts.items()},
    }


def build_client_secret(namespace: str, data: dict[str, str]) -> Manifest:
    """With which serving pods and Jobs of a namespace reach the control stream."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CLIENT_SECRET, "namespace": namespace, "labels": PLAIN_LABELS},
        "type": "kubernetes.io/tls",
        "data": data,
    }


def build_trust(namespace: str, *, public_key: str, ca_certificate: str) -> Manifest:
    """What Pods need in order to check bundles and the operator's certificate. Nothing secret."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": TRUST_CONFIGMAP, "namespace": namespace, "labels": PLAIN_LABELS},
        "data": {SIGNING_PUBLIC_KEY: public_key, CA_KEY: ca_certificate},
    }
