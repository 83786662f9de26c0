"""What Pods of Jobs and of serving have in common: Pod Security `restricted`, volumes, the token."""

from __future__ import annotations

from ecompile_crds.names import (
    ARTIFACTS_PATH,
    CLIENT_PATH,
    CLIENT_SECRET,
    SIGNING_PATH,
    SIGNING_SECRET,
    TOKEN_AUDIENCE,
    TOKEN_PATH,
    TRUST_CONFIGMAP,
    TRUST_PATH,
)

from ..kube.client import Manifest
from ..settings import Settings

RUN_AS_USER = 65532
"""The user of all our images (as in distroless)."""
TOKEN_SECONDS = 3600


def pod_security() -> Manifest:
    """Pod Security Standards, `restricted`."""
    return {
        "runAsNonRoot": True,
        "runAsUser": RUN_AS_USER,
        "runAsGroup": RUN_AS_USER,
        "fsGroup": RUN_AS_USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def volumes(settings: Settings, *, read_only_artifacts: bool, signing: bool) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts: scratch, trust, token, artifacts, and the signing key where asked for."""
    token_directory, token_file = TOKEN_PATH.rsplit("/", 1)
    found: list[Manifest] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "trust", "configMap": {"name": TRUST_CONFIGMAP}},
        {
            "name": "token",
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "path": token_file,
                            "audience": TOKEN_AUDIENCE,
                            "expirationSeconds": TOKEN_SECONDS,
                        }
                    }
                ]
            },
        },
    ]
    mounts: list[Manifest] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "trust", "mountPath": TRUST_PATH, "readOnly": True},
        {"name": "token", "mountPath": token_directory, "readOnly": True},
    ]
    if settings.mutual_tls:
        secret = {"secretName": CLIENT_SECRET, "defaultMode": 0o440, "optional": True}
        found.append({"name": "client", "secret": secret})
        mounts.append({"name": "client", "mountPath": CLIENT_PATH, "readOnly": True})
    if settings.artifacts_uri.startswith("file://"):
        claim = {"claimName": settings.artifacts_claim, "readOnly": read_only_artifacts}
        found.append({"name": "artifacts", "persistentVolumeClaim": claim})
        mounts.append({"name": "artifacts", "mountPath": ARTIFACTS_PATH, "readOnly": read_only_artifacts})
    if signing:
        found.append({"name": "signing", "secret": {"secretName": SIGNING_SECRET, "defaultMode": 0o440}})
        mounts.append({"name": "signing", "mountPath": SIGNING_PATH, "readOnly": True})
    return found, mounts


def pod_name_env() -> Manifest:
    return {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def env(**values: str) -> list[Manifest]:
    """Plain variables, in the given order."""
    return [{"name": name, "value": value} for name, value in values.items()]
