"""Names that two or more parts must agree on: API group, labels, annotations, mount paths, environment variables."""

from __future__ import annotations

import hashlib

GROUP = "ecompile.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "ecompile-operator"

LABEL_MODEL = f"{GROUP}/model"
LABEL_JOB = f"{GROUP}/job"
"""Value: profile, distill or validate."""
LABEL_LIFE = f"{GROUP}/life"
"""Value: the life key of the inputs that a child was made from."""
LABEL_MODULE = f"{GROUP}/module"
"""On validate Jobs: name of the CompiledModule."""
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "ecompile-operator"
COMPONENT_SERVING = "serving"
COMPONENT_JOB = "job"
LABEL_EXAMPLE = f"{GROUP}/example"
LABEL_LEADER = f"{GROUP}/leader"

ANNOTATION_COMMAND = f"{GROUP}/command"
"""Value: `verb token`, for example `rollback 2026-01-31-a`. Each token is executed once."""

FINALIZER_ORPHAN = f"{GROUP}/orphan"
"""On a HybridModel with `deletionPolicy: Orphan`: its pods go neural and lose their owner before it is gone."""

TOKEN_AUDIENCE = "ecompile"

ARTIFACTS_PATH = "/artifacts"
TRUST_PATH = "/etc/ecompile/trust"
"""ConfigMap `ecompile-trust`: `signing.pub` (ed25519, PEM) and `ca.crt` of the control stream."""
SIGNING_PATH = "/etc/ecompile/signing"
"""Secret `ecompile-signing`, mounted in distill Jobs only: `signing.key` (ed25519, PKCS 8 PEM)."""
TOKEN_PATH = "/var/run/secrets/ecompile/token"
ROUTING_PATH = "/etc/ecompile/routing"
"""ConfigMap `<model>-routing`: `routing.json`."""
ROUTING_KEY = "routing.json"
SCRATCH_PATH = "/tmp"
STATE_PATH = f"{SCRATCH_PATH}/ecompile-state"
"""Of a serving pod: in an emptyDir, so that it outlives the container."""

CLIENT_SECRET = "ecompile-client-tls"
"""Where the control stream asks for client certificates: of a namespace's serving pods and Jobs."""
CLIENT_PATH = "/etc/ecompile/client"
CLIENT_CERTIFICATE = "tls.crt"
CLIENT_KEY = "tls.key"
TRUST_CONFIGMAP = "ecompile-trust"
SIGNING_SECRET = "ecompile-signing"
TLS_SECRET = "ecompile-control-tls"
WEBHOOK_SECRET = "ecompile-alertmanager"
"""In the operator's namespace: `token`, which Alertmanager presents."""
SIGNING_KEY = "signing.key"
SIGNING_PUBLIC_KEY = "signing.pub"
CA_KEY = "ca.crt"

REPORT_PACE_KEY = "ecompile-report-seconds"
"""Header of the control stream's answer: how often a pod reports where nothing is on trial and nothing is new."""

MAX_MODEL_NAME = 40
"""Longest HybridModel name. Children add at most 23 characters (`-distill-` + 10 hex + index) and a Pod of an
Indexed Job adds more; 63 is the limit of a label value and of a host name (RFC 1123)."""


def short_hash(*parts: str) -> str:
    """Ten hex digits naming the given inputs; equal inputs give equal names (SHA-256, unit separator between)."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:10]


def routing_configmap(model: str) -> str:
    """Name of the ConfigMap that keeps the routing table of `model`."""
    return f"{model}-routing"


def audit_configmap(model: str) -> str:
    """Name of the ConfigMap that keeps the audit log of `model`; it outlives the model."""
    return f"{model}-audit"
