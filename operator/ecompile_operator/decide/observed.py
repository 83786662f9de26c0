"""What `observe` read: one frozen value per HybridModel with its children, and what its pods last reported."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ecompile_crds.audit import AuditRecord
from ecompile_crds.compiledmodule import CompiledModuleSpec, CompiledModuleStatus
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.jobs import JobCost, JobKind, JobResult


class JobPhase(StrEnum):
    PENDING = "Pending"
    """Exists; no Pod has started."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class ObservedJob:
    """One of our Jobs."""

    name: str
    kind: JobKind
    life: str
    phase: JobPhase
    results: Mapping[int, JobResult] = field(default_factory=dict)
    """Termination messages by completion index; a Job that is not indexed has index 0."""
    reason: str = ""
    """Where FAILED: `OOMKilled`, `DeadlineExceeded`, `BackoffLimitExceeded`, ... Where PENDING: why its Pods wait,
    such as `ImagePullBackOff` or `Unschedulable`."""
    message: str = ""
    created_at: datetime | None = None
    image: str = ""
    completions: int = 1
    module: str = ""
    """Validate: name of the CompiledModule."""
    finished_at: datetime | None = None
    """Where it SUCCEEDED or FAILED."""
    costs: tuple[JobCost, ...] = ()
    """Of each Pod that left a report, failed ones included."""


@dataclass(frozen=True, kw_only=True)
class ObservedModule:
    """A CompiledModule."""

    name: str
    uid: str
    generation: int
    spec: CompiledModuleSpec
    status: CompiledModuleStatus
    command: str | None = None
    """Value of the command annotation."""


@dataclass(frozen=True, kw_only=True)
class ObservedPod:
    """A live serving Pod: running, not being deleted."""

    name: str
    life: str
    ready: bool
    waiting_reason: str = ""
    """Why its container waits, such as `ImagePullBackOff`; empty where it runs."""


class AlertKind(StrEnum):
    BREAKER = "Breaker"
    DRIFT = "Drift"
    FALLBACK = "Fallback"
    LATENCY = "Latency"
    INPUT_DRIFT = "InputDrift"
    GROUP_GAP = "GroupGap"


@dataclass(frozen=True, kw_only=True)
class PodAlert:
    """A standing alert of one pod."""

    kind: AlertKind
    segment: int
    value: float
    limit: float
    detail: str
    generation: int


@dataclass(frozen=True, kw_only=True)
class GroupCounters:
    """Comparisons of one group of spec.equivalence.fairness."""

    group: str
    comparisons: int = 0
    exceeded: int = 0
    """Of these, with a relative error beyond driftLimit."""


@dataclass(frozen=True, kw_only=True)
class RemoteAlert:
    """An alert that came by Alertmanager. It repeats one that it sent before until that is resolved."""

    alert: PodAlert
    """Its generation is the one in force when it was last received."""
    first_generation: int
    """The one in force when it was first received: a rollback since then has answered it."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Sums of one segment since the acknowledged generation came into force (control.proto, SegmentCounters)."""

    segment: int
    requests: int = 0
    compiled: int = 0
    fallbacks: int = 0
    guard_checked: int = 0
    comparisons: int = 0
    delta_sum: float = 0.0
    delta_max: float = 0.0
    compiled_p50_seconds: float = 0.0
    neural_p50_seconds: float = 0.0
    latency_samples: int = 0
    proven_comparisons: int = 0
    """Of the comparisons, those whose inputs lie in a proven region."""
    groups: tuple[GroupCounters, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MergedEvidence:
    """What all pods together have seen of one sequential test at one segment, in one routing generation."""

    kind: AlertKind
    segment: int
    generation: int
    e_value: float
    observations: int
    pods: int
    mean: float
    """Of all observations, in the units of `limit`."""
    limit: float
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class PodReport:
    """The newest report of one pod."""

    pod: str
    life: str
    received_at: datetime
    """On the operator's clock; no decision compares clocks of two machines."""
    generation: int
    """Acknowledged routing generation."""
    counters: tuple[Counters, ...] = ()
    alerts: tuple[PodAlert, ...] = ()
    refused_generation: int = 0
    refused_reason: str = ""
    requests_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ObservedDeployment:
    """The serving Deployment."""

    name: str
    life: str
    """Life of its Pod template."""
    replicas: int = 0
    ready: int = 0
    updated: int = 0


@dataclass(frozen=True, kw_only=True)
class AuditHead:
    """The newest record in the audit ConfigMap."""

    sequence: int
    hash: str
    generation: int
    recorded: Mapping[int, str] = field(default_factory=dict)
    """What records of that generation say of each segment: the newest `after`."""

    @staticmethod
    def of(newest_first: Iterable[AuditRecord]) -> AuditHead:
        """From the log, read backwards as far as its newest generation goes.

        Raises StopIteration where there is no record.
        """
        records = iter(newest_first)
        newest = next(records)
        recorded = {newest.segment: newest.after}
        for record in itertools.takewhile(lambda r: r.generation == newest.generation, records):
            recorded.setdefault(record.segment, record.after)
        return AuditHead(sequence=newest.sequence, hash=newest.hash, generation=newest.generation, recorded=recorded)


@dataclass(frozen=True, kw_only=True)
class Storm:
    """Many models were rolled back within a short time."""

    models: int
    reason: str
    """The most frequent one."""
    window_seconds: int
    until: datetime
    """When it is over, unless more follow."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Rollouts of other models that run now, and the operator's limits; a limit of 0 is none."""

    rollouts: int = 0
    rollouts_in_namespace: int = 0
    limit: int = 0
    limit_per_namespace: int = 0
    storm: Storm | None = None


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the operator was told of this cluster; a price of 0 is not known."""

    watts_per_core: float = 8.0
    price_per_core_hour: float = 0.0
    price_per_gpu_hour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything a decision about one HybridModel may depend on, apart from the time."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool = False
    finalizer: bool = False
    """It carries our finalizer: it was to be orphaned when we last looked."""
    spec: HybridModelSpec | None = None
    spec_error: str = ""
    """Why the spec could not be read, naming the field; then `spec` is None."""
    status: HybridModelStatus = field(default_factory=HybridModelStatus)
    command: str | None = None
    modules: tuple[ObservedModule, ...] = ()
    jobs: tuple[ObservedJob, ...] = ()
    deployment: ObservedDeployment | None = None
    service_owner: str | None = None
    """`kind/name` of someone else who owns a Service of the wanted name."""
    pods: tuple[ObservedPod, ...] = ()
    reports: tuple[PodReport, ...] = ()
    evidence: tuple[MergedEvidence, ...] = ()
    """Of the sequential tests, over all pods."""
    remote_alerts: tuple[RemoteAlert, ...] = ()
    audit: AuditHead | None = None
    progress: str = ""
    """Newest progress of a running Job, from the control stream."""
    artifacts_uri: str = "file:///artifacts"
    worker_image: str = ""
    """What a Job created now would run."""
    rates: Rates = field(default_factory=Rates)
    fleet: Fleet = field(default_factory=Fleet)
