"""What `decide` answers: values for `apply` to bring about. Applying a decision twice changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ecompile_crds.audit import AuditRecord
from ecompile_crds.compiledmodule import CompiledModuleSpec, CompiledModuleStatus
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.jobs import JobInput
from ecompile_crds.routing import RoutingTable


@dataclass(frozen=True, kw_only=True)
class DesiredJob:
    """A Job that must exist; created if absent, otherwise left alone."""

    name: str
    input: JobInput
    completions: int = 1
    """Above 1, or for distill always: an Indexed Job."""
    owner_module: str | None = None


@dataclass(frozen=True, kw_only=True)
class DesiredServing:
    """The serving Deployment and Service."""

    life: str
    plan_uri: str
    service_name: str
    least_replicas: int = 0
    """Not fewer Pods than this, whatever the spec says: the neural path needs them."""


@dataclass(frozen=True, kw_only=True)
class NewModule:
    """A CompiledModule to create if absent."""

    name: str
    spec: CompiledModuleSpec


@dataclass(frozen=True, kw_only=True)
class ModuleUpdate:
    """New status of a CompiledModule."""

    name: str
    status: CompiledModuleStatus


@dataclass(frozen=True, kw_only=True)
class ModelEvent:
    """A Kubernetes Event about the HybridModel, or about one of its modules."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    module: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Everything to bring about for one HybridModel, in this order: module statuses, audit records, status, routing
    ConfigMap, push to pods, children, events."""

    status: HybridModelStatus
    spec: HybridModelSpec | None = None
    module_updates: tuple[ModuleUpdate, ...] = ()
    """Only modules whose status changes."""
    new_modules: tuple[NewModule, ...] = ()
    audit: tuple[AuditRecord, ...] = ()
    routing: RoutingTable | None = None
    """The table in force, changed or not; None before anything serves."""
    jobs: tuple[DesiredJob, ...] = ()
    delete_jobs: tuple[str, ...] = ()
    serving: DesiredServing | None = None
    events: tuple[ModelEvent, ...] = ()
    finalizer: bool = False
    """The HybridModel must carry our finalizer."""
    orphan: bool = False
    """What serves must lose its owner, before the finalizer goes."""
    waits_for_slot: bool = False
    """A module could start but for the limits on simultaneous rollouts."""
    wake_at: datetime | None = None
    """Decide again at this time even if nothing changes."""
