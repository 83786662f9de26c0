"""The local cache and the newest reports as one frozen value."""

from __future__ import annotations

from ecompile_crds import audit
from ecompile_crds.compiledmodule import CompiledModule
from ecompile_crds.errors import EcompileError
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.names import (
    ANNOTATION_COMMAND,
    COMPONENT_SERVING,
    LABEL_COMPONENT,
    LABEL_LIFE,
    MAX_MODEL_NAME,
    audit_configmap,
)
from pydantic import ValidationError

from ..control.hub import Hub
from ..decide.observed import (
    AuditHead,
    Observed,
    ObservedDeployment,
    ObservedModule,
    ObservedPod,
)
from ..kube.client import Manifest
from .cache import Cache, ModelKey
from .jobs import observe_job, waiting_reasons

AUDIT_KEY = "audit.jsonl"


def observe(cache: Cache, hub: Hub, key: ModelKey, *, artifacts_uri: str) -> Observed | None:
    """What is known of one HybridModel; None where it does not exist."""
    manifest = cache.models.get(key)
    if manifest is None:
        return None
    namespace, name = key
    meta = manifest["metadata"]
    spec, spec_error = parse_spec(manifest)
    pods = cache.children("Pod", key)
    jobs = [observe_job(job, pods) for job in cache.children("Job", key)]
    wanted_service = (spec.serving.service_name or name) if spec is not None else name
    return Observed(
        namespace=namespace,
        name=name,
        uid=meta.get("uid", ""),
        generation=meta.get("generation", 0),
        deleting="deletionTimestamp" in meta,
        spec=spec,
        spec_error=spec_error,
        status=parse_status(manifest),
        command=meta.get("annotations", {}).get(ANNOTATION_COMMAND),
        modules=tuple(m for m in map(_module, cache.children("CompiledModule", key)) if m is not None),
        jobs=tuple(job for job in jobs if job is not None),
        deployment=_deployment(cache.child("Deployment", key, name)),
        service_owner=_service_owner(cache, key, wanted_service),
        pods=tuple(pod for pod in map(_pod, pods) if pod is not None),
        reports=hub.reports(key),
        audit=_audit_head(cache.child("ConfigMap", key, audit_configmap(name))),
        progress=hub.progress(key),
        artifacts_uri=artifacts_uri,
    )


def parse_spec(manifest: Manifest) -> tuple[HybridModelSpec | None, str]:
    """The spec, or None and a sentence that names the field."""
    name = manifest["metadata"]["name"]
    if len(name) > MAX_MODEL_NAME:
        return (
            None,
            f"metadata.name: {len(name)} characters are too many for the names of children; use {MAX_MODEL_NAME}.",
        )
    try:
        return HybridModelSpec.model_validate(manifest.get("spec") or {}), ""
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["spec", *(str(part) for part in first["loc"])])
        return None, f"{field}: {first['msg']}."


def parse_status(manifest: Manifest) -> HybridModelStatus:
    """The status; an unreadable one counts as empty, since everything in it can be found again."""
    try:
        return HybridModelStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        return HybridModelStatus()


def _module(manifest: Manifest) -> ObservedModule | None:
    try:
        module = CompiledModule.model_validate(manifest)
    except ValidationError:
        return None
    meta = manifest["metadata"]
    return ObservedModule(
        name=meta["name"],
        uid=meta.get("uid", ""),
        generation=meta.get("generation", 0),
        spec=module.spec,
        status=module.status,
        command=meta.get("annotations", {}).get(ANNOTATION_COMMAND),
    )


def _pod(manifest: Manifest) -> ObservedPod | None:
    meta, status = manifest["metadata"], manifest.get("status", {})
    labels = meta.get("labels", {})
    if labels.get(LABEL_COMPONENT) != COMPONENT_SERVING or "deletionTimestamp" in meta:
        return None
    if status.get("phase") not in ("Pending", "Running"):
        return None
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", []))
    reason, message = next(waiting_reasons(manifest), ("", ""))
    return ObservedPod(
        name=meta["name"],
        life=labels.get(LABEL_LIFE, ""),
        ready=ready,
        waiting_reason=f"{reason}: {message}".rstrip(": "),
    )


def _deployment(manifest: Manifest | None) -> ObservedDeployment | None:
    if manifest is None:
        return None
    spec, status = manifest["spec"], manifest.get("status", {})
    current = status.get("observedGeneration") == manifest["metadata"].get("generation")
    return ObservedDeployment(
        name=manifest["metadata"]["name"],
        life=spec["template"]["metadata"].get("labels", {}).get(LABEL_LIFE, ""),
        replicas=spec.get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0) if current else 0,
    )


def _service_owner(cache: Cache, key: ModelKey, service: str) -> str | None:
    """`HybridModel/other` where a Service of that name belongs to another model."""
    others = [owner for owner in cache.owners_of("Service", key[0], service) if owner != key]
    return f"HybridModel/{others[0][1]}" if others else None


def _audit_head(manifest: Manifest | None) -> AuditHead | None:
    lines = (manifest or {}).get("data", {}).get(AUDIT_KEY, "").splitlines()
    if not lines:
        return None
    try:
        record = audit.parse(lines[-1:])[0]
    except (EcompileError, IndexError):
        return None
    return AuditHead(sequence=record.sequence, hash=record.hash, generation=record.generation)
