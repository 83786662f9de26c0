"""The local cache and the newest reports as one frozen value."""

from __future__ import annotations

import logging
from typing import TypeVar

from ecompile_crds import audit
from ecompile_crds.compiledmodule import CompiledModuleSpec, CompiledModuleStatus
from ecompile_crds.errors import EcompileError
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.names import (
    ANNOTATION_COMMAND,
    COMPONENT_SERVING,
    FINALIZER_ORPHAN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_LIFE,
    MAX_MODEL_NAME,
    ROUTING_KEY,
    audit_configmap,
    routing_configmap,
)
from ecompile_crds.routing import RoutingTable
from pydantic import ValidationError

from ..control.hub import Hub, JobStep
from ..decide.observed import (
    AuditHead,
    Observed,
    ObservedDeployment,
    ObservedModule,
    ObservedPod,
)
from ..decide.waiting import sentence
from ..kube.client import Manifest
from .cache import Cache, ModelKey, controller_uid
from .jobs import observe_job, waiting_reasons

logger = logging.getLogger(__name__)

AUDIT_KEY = "audit.jsonl"
Status = TypeVar("Status", HybridModelStatus, CompiledModuleStatus)


def observe(cache: Cache, hub: Hub, key: ModelKey, *, artifacts_uri: str, worker_image: str = "") -> Observed | None:
    """What is known of one HybridModel; None where it does not exist."""
    manifest = cache.models.get(key)
    if manifest is None:
        return None
    namespace, name = key
    meta = manifest["metadata"]
    spec, spec_error = parse_spec(manifest)
    uid = meta.get("uid", "")
    pods = cache.children("Pod", key)
    jobs = [observe_job(job, pods) for job in _owned(cache.children("Job", key), uid)]
    modules = [_module(module) for module in _owned(cache.children("CompiledModule", key), uid)]
    deployments = [d for d in _owned(cache.children("Deployment", key), uid) if d["metadata"]["name"] == name]
    wanted_service = (spec.serving.service_name or name) if spec is not None else name
    return Observed(
        namespace=namespace,
        name=name,
        uid=uid,
        generation=meta.get("generation", 0),
        deleting="deletionTimestamp" in meta,
        finalizer=FINALIZER_ORPHAN in meta.get("finalizers", []),
        spec=spec,
        spec_error=spec_error,
        status=_after(parse_status(manifest), cache.child("ConfigMap", key, routing_configmap(name))),
        command=meta.get("annotations", {}).get(ANNOTATION_COMMAND),
        modules=tuple(module for module in modules if module is not None),
        jobs=tuple(job for job in jobs if job is not None),
        deployment=_deployment(deployments[0]) if deployments else None,
        service_owner=cache.other_owner("Service", key, wanted_service),
        pods=tuple(pod for pod in map(_pod, pods) if pod is not None),
        reports=hub.reports(key),
        evidence=hub.evidence(key),
        remote_alerts=hub.remote_alerts(key),
        audit=_audit_head(cache.child("ConfigMap", key, audit_configmap(name))),
        progress=_progress(cache, hub.progress(key), key),
        artifacts_uri=artifacts_uri,
        worker_image=worker_image,
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
    """The status; a field that cannot be read counts as absent and does not take the others with it."""
    return _tolerant(HybridModelStatus, manifest.get("status") or {})


def _after(status: HybridModelStatus, routing: Manifest | None) -> HybridModelStatus:
    """The status, with generations that go on from the table that an earlier model of the name left behind: its pods,
    which serve on, take later generations only."""
    try:
        left = RoutingTable.model_validate_json((routing or {}).get("data", {}).get(ROUTING_KEY, "")).generation
    except ValidationError:
        return status
    if left <= status.routing.generation:
        return status
    return status.model_copy(update={"routing": status.routing.model_copy(update={"generation": left})})


def _tolerant(kind: type[Status], values: dict[str, object]) -> Status:
    """The status without the fields that another version of the schema wrote differently."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        return kind.model_validate({name: value for name, value in values.items() if name not in bad})


def _owned(manifests: list[Manifest], uid: str) -> list[Manifest]:
    """Those that belong to this very model, not to an earlier one of its name that is still being collected."""
    return [manifest for manifest in manifests if controller_uid(manifest) == uid]


def _progress(cache: Cache, step: JobStep | None, key: ModelKey) -> str:
    """Such as `distill 1/2 compile 60%`; the number only where there is more than one."""
    job = cache.child("Job", key, step.job) if step is not None else None
    if step is None or job is None:
        return ""
    kind = job["metadata"].get("labels", {}).get(LABEL_JOB, "job")
    completions = job.get("spec", {}).get("completions", 1)
    number = f" {step.index + 1}/{completions}" if completions > 1 else ""
    return f"{kind}{number} {step.text}"


def _module(manifest: Manifest) -> ObservedModule | None:
    try:
        spec = CompiledModuleSpec.model_validate(manifest.get("spec") or {})
    except ValidationError:
        logger.warning("CompiledModule %s: its spec cannot be read; left alone", manifest["metadata"]["name"])
        return None
    meta = manifest["metadata"]
    return ObservedModule(
        name=meta["name"],
        uid=meta.get("uid", ""),
        generation=meta.get("generation", 0),
        spec=spec,
        status=_tolerant(CompiledModuleStatus, manifest.get("status") or {}),
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
        waiting_reason=sentence(reason, message),
    )


def _deployment(manifest: Manifest) -> ObservedDeployment:
    spec, status = manifest["spec"], manifest.get("status", {})
    current = status.get("observedGeneration") == manifest["metadata"].get("generation")
    return ObservedDeployment(
        name=manifest["metadata"]["name"],
        life=spec["template"]["metadata"].get("labels", {}).get(LABEL_LIFE, ""),
        replicas=spec.get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0) if current else 0,
    )


def _audit_head(manifest: Manifest | None) -> AuditHead | None:
    lines = (manifest or {}).get("data", {}).get(AUDIT_KEY, "").splitlines()
    if not lines:
        return None
    try:
        return AuditHead.of(record for line in reversed(lines) for record in audit.parse([line]))
    except (EcompileError, StopIteration):
        return None
