"""HybridModel: a trained network, what "equivalent" means for it, and how it is served. The user writes it.

Docstrings of fields become `kubectl explain` texts and the reference documentation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .base import ApiModel, StatusModel, cel
from .conditions import Condition
from .cron import next_time
from .evidence import Evidence

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="SHA-256 as `sha256:` and 64 hex digits.")]
Uri = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        pattern=r"^(file|s3|gs)://[^\s]+$",
        description="Where the file is: `file:///artifacts/...` (the artifact volume), `s3://` or `gs://`.",
    ),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class SourceFormat(StrEnum):
    ONNX = "onnx"
    PT2 = "pt2"


class Source(ApiModel):
    """The trained network."""

    uri: Uri
    digest: Digest | None = Field(
        default=None, description="If set, the file must have this digest; a change starts a new life."
    )
    format: SourceFormat = Field(default=SourceFormat.ONNX, description="onnx, or pt2 for a torch.export archive.")


class DataRef(ApiModel):
    """A `.npz` file with an array `inputs` (rows, features...) and, where known, `labels` and `groups`."""

    uri: Uri
    digest: Digest | None = Field(default=None, description="If set, the file must have this digest.")


class ResourceRequirements(ApiModel):
    """Requests and limits as in a container."""

    requests: dict[str, str | int] = Field(default_factory=dict)
    limits: dict[str, str | int] = Field(default_factory=dict)


class EnvVar(ApiModel):
    """A plain environment variable; secrets are mounted by reference, never inlined."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)
    value: str = Field(default="", max_length=4096)


class JobTemplate(ApiModel):
    """What every Job's Pod gets."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list, max_length=32)
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    env: list[EnvVar] = Field(default_factory=list, max_length=64)
    priority_class_name: str | None = Field(
        default=None, max_length=253, description="PriorityClass of the Pods; the cluster's default where not set."
    )


class Jobs(ApiModel):
    """How profiling, distillation and validation Jobs run."""

    queue_name: str | None = Field(
        default=None,
        max_length=63,
        description="Kueue LocalQueue; Jobs get the label `kueue.x-k8s.io/queue-name` and start suspended.",
    )
    template: JobTemplate = Field(default_factory=JobTemplate)
    deadline_seconds: int = Field(default=3600, ge=30, le=604800, description="activeDeadlineSeconds of each Job.")
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Retries of a Pod whose failure is retryable; in distillation of each segment on its own.",
    )
    ttl_seconds_after_finished: int = Field(
        default=86_400, ge=60, le=2_592_000, description="How long a finished Job is kept at most, for its logs."
    )
    history: int = Field(default=3, ge=0, le=50, description="How many finished Jobs of each kind are kept at most.")


class Strategy(StrEnum):
    FOLD = "fold"
    EXACT = "exact"
    REGIONS = "regions"
    LOWRANK = "lowrank"
    DEADUNITS = "deadunits"
    SYMBOLIC = "symbolic"


SUPPORTED_STRATEGIES = tuple(Strategy)
"""Every member has a file in `distill/` of the workers; `strategies.py` there maps one to the other."""


class Target(StrEnum):
    X86_64_V2 = "x86-64-v2"
    X86_64_V3 = "x86-64-v3"
    X86_64_V4 = "x86-64-v4"
    ARM64 = "arm64"


SUPPORTED_TARGETS = (Target.X86_64_V2, Target.X86_64_V3, Target.X86_64_V4)


class Distill(ApiModel):
    """How segments are turned into code."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.strategies) || self.strategies.all(s, self.strategies.exists_one(t, t == s))",
                "spec.distill.strategies: name each strategy once",
            ),
            (
                "!has(self.targets) || self.targets.all(t, t in ['x86-64-v2','x86-64-v3','x86-64-v4'])",
                "spec.distill.targets: only x86-64-v2, x86-64-v3 and x86-64-v4 are supported by this version",
            ),
        )
    )

    strategies: list[Strategy] = Field(
        default=[Strategy.FOLD, Strategy.EXACT],
        min_length=1,
        max_length=8,
        description="What is tried for each segment; the one measured fastest within spec.equivalence is used. fold "
        "and exact compute what the network does; regions adds proven boxes; lowrank certifies each input; deadunits "
        "and symbolic rest on samples.",
    )
    targets: list[Target] = Field(
        default=[Target.X86_64_V2, Target.X86_64_V3, Target.X86_64_V4], min_length=1, max_length=8
    )
    max_segments: int = Field(default=16, ge=1, le=64, description="At most this many segments are compiled.")
    budget_seconds: int = Field(default=900, ge=10, le=86400, description="Time one segment's distillation may take.")
    min_speedup: float = Field(
        default=1.0, ge=1.0, le=100.0, description="A module that is not faster than this factor is not made."
    )


GroupName = Annotated[str, Field(min_length=1, max_length=64)]


class Fairness(ApiModel):
    """Gap between groups that a module may not open: in validation, at each rollout step, and while it serves."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.groups.all(g, self.groups.exists_one(h, h == g))",
                "spec.equivalence.fairness.groups: each group may be named once",
            ),
        )
    )

    groups: list[GroupName] = Field(
        min_length=2,
        max_length=32,
        description="Groups to compare: values of the array `groups` in the data file, and of the request parameter "
        "`group`.",
    )
    max_gap: PositiveFraction = Field(
        default=0.05,
        description="Limit of the difference between two groups in the share of answers beyond the limit of the "
        "relative error.",
    )


class Equivalence(ApiModel):
    """What a module must show before it may serve."""

    max_relative_error: PositiveFraction = Field(
        default=1e-3, description="Limit of delta: mean of |y - y'| / (|y| + 1e-6 + row scale) over the test inputs."
    )
    min_correlation: PositiveFraction = Field(default=0.99, description="Least Pearson r between the outputs.")
    max_deviation: float = Field(
        default=1e-4,
        gt=0,
        le=1e6,
        description="Limit of max |y - y'|, relative to the largest |y| where that exceeds 1.",
    )
    test_inputs: int = Field(default=1000, ge=10, le=10_000_000, description="Least number of test inputs.")
    ood_inputs: int = Field(
        default=100, ge=10, le=10_000_000, description="Least number of out-of-distribution inputs."
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence of the stated bounds.")
    fairness: Fairness | None = None


class Protocol(StrEnum):
    """Of the Open Inference Protocol v2."""

    REST = "rest"
    GRPC = "grpc"


class Autoscaling(ApiModel):
    """Horizontal autoscaling by CPU: a HorizontalPodAutoscaler instead of `replicas`."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.maxReplicas >= self.minReplicas",
                "spec.serving.autoscaling.maxReplicas: must not be below minReplicas",
            ),
        )
    )

    min_replicas: int = Field(ge=1, le=1000, description="Never fewer Pods than this.")
    max_replicas: int = Field(ge=1, le=1000, description="Never more Pods than this.")
    target_cpu_percent: int = Field(
        default=70, ge=10, le=200, description="CPU to aim at, in percent of what the Pods request."
    )


class Policy(StrEnum):
    CONFORMAL = "conformal"
    GUARD_ONLY = "guard-only"
    CONFIDENCE_FIRST = "confidence-first"
    COMPILED_FIRST = "compiled-first"
    SHADOW = "shadow"
    NEURAL_ONLY = "neural-only"


class ConfidenceWeights(ApiModel):
    """Weights of the terms of the confidence; one whose term is not known goes to the others."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.stability + self.distribution + self.accuracy > 0.0",
                "spec.serving.policy.weights: at least one weight must be above 0",
            ),
        )
    )

    stability: Fraction = Field(default=0.4, description="Of the segment's stability.")
    distribution: Fraction = Field(default=0.3, description="Of 1 - out-of-distribution.")
    accuracy: Fraction = Field(default=0.3, description="Of the recent accuracy.")

    @model_validator(mode="after")
    def _some_weight(self) -> ConfidenceWeights:
        if self.stability + self.distribution + self.accuracy <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


class ServingPolicy(ApiModel):
    """Which inputs a module may answer. It comes into force with a new routing generation, without a restart."""

    name: Policy = Field(
        default=Policy.CONFORMAL,
        description="conformal: guard, and calibrated risk at most maxRisk; guard-only; confidence-first: guard, and "
        "confidence at least minConfidence; compiled-first: guard, and every request in canary steps too; shadow: "
        "the network answers, modules are compared; neural-only: modules are not used.",
    )
    max_risk: PositiveFraction = Field(
        default=0.05,
        description="conformal: limit of the probability that an input is answered beyond maxRelativeError.",
    )
    min_confidence: Fraction = Field(default=0.9, description="confidence-first: least confidence.")
    weights: ConfidenceWeights = Field(default_factory=ConfidenceWeights)


class Isolation(StrEnum):
    NONE = "None"
    SAMPLED = "Sampled"


class Feedback(ApiModel):
    """Labels that come after the answer: `POST /v2/models/NAME/feedback`."""

    remember: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How many of its newest answers a pod remembers by the request's id; 0: no feedback is taken.",
    )


class Serving(ApiModel):
    """The serving pods."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.autoscaling) || (has(self.resources) && has(self.resources.requests) "
                "&& 'cpu' in self.resources.requests)",
                "spec.serving.autoscaling: needs spec.serving.resources.requests.cpu, which its target is a share of",
            ),
            (
                "!has(self.rollbackMaxReplicas) || self.rollbackMaxReplicas >= self.replicas",
                "spec.serving.rollbackMaxReplicas: must not be below replicas",
            ),
            (
                "!has(self.protocols) || self.protocols.all(p, self.protocols.exists_one(q, q == p))",
                "spec.serving.protocols: names a protocol twice; name each once",
            ),
        )
    )

    replicas: int = Field(default=1, ge=1, le=200, description="Number of Pods, unless `autoscaling` is set.")
    rollback_max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=400,
        description="After a rollback at most so many Pods, where the neural path needs more than `replicas` for the "
        "load that was measured; twice `replicas` where not set. With `autoscaling` its maxReplicas counts instead.",
    )
    service_name: str | None = Field(
        default=None,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=63,
        description="Name of the Service; the model's name where not set.",
    )
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    priority_class_name: str | None = Field(
        default=None, max_length=253, description="PriorityClass of the Pods; the cluster's default where not set."
    )
    protocols: list[Protocol] = Field(
        default=[Protocol.REST, Protocol.GRPC],
        min_length=1,
        max_length=2,
        description="What the Service offers: rest (port 80), grpc (port 8081), or both. Pods always listen on both, "
        "for probes and metrics come over HTTP.",
    )
    autoscaling: Autoscaling | None = None
    policy: ServingPolicy = Field(default_factory=ServingPolicy)
    feedback: Feedback = Field(default_factory=Feedback)
    isolation: Isolation = Field(
        default=Isolation.NONE,
        description="Sampled: modules whose evidence is only sampled run in processes of their own, which costs two "
        "context switches a call; a crash there does not restart the Pod.",
    )
    carbon_region: str | None = Field(
        default=None,
        pattern=r"^([A-Z]{2}|WORLD|[0-9]{1,4})$",
        description="Where the electricity comes from, for figures of CO2: a country of the table in the docs, or "
        "grams of CO2e per kWh.",
    )


class Approval(StrEnum):
    AUTOMATIC = "Automatic"
    REQUIRED = "Required"


class StepMode(StrEnum):
    SHADOW = "shadow"
    CANARY = "canary"


class Step(ApiModel):
    """One step of a rollout; left when its gate says Pass."""

    mode: StepMode
    weight: PositiveFraction = Field(default=0.1, description="Canary: share of requests the module answers.")
    compare: PositiveFraction = Field(default=0.5, description="Probability that a request is compared.")
    min_comparisons: int = Field(default=200, ge=1, le=10_000_000, description="Comparisons that the gate needs.")
    deadline_seconds: int = Field(
        default=3600,
        ge=10,
        le=2_592_000,
        description="After this long without enough data, `analysis.onNoData` applies.",
    )
    approval: Approval = Field(
        default=Approval.AUTOMATIC,
        description="Required: waits for the command `approve` before this step begins.",
    )


class OnNoData(StrEnum):
    WAIT = "wait"
    HOLD = "hold"
    NEURAL = "neural"


class Analysis(ApiModel):
    """Limits that serving must keep; a breach rolls back."""

    drift_limit: PositiveFraction = Field(default=2e-3, description="Limit of the mean relative error (delta).")
    fallback_limit: PositiveFraction = Field(default=0.05, description="Limit of the share of requests refused.")
    latency_regression_limit: float = Field(
        default=0.20, gt=0, le=10, description="Compiled may be slower than neural by at most this share."
    )
    input_drift_limit: PositiveFraction = Field(
        default=0.5,
        description="Limit of the share of inputs further from the calibration sample than 95 % of that sample.",
    )
    false_alarm_interval: int = Field(
        default=1_000_000,
        ge=1000,
        le=1_000_000_000_000,
        description="Expected number of requests between two false alarms of one detector.",
    )
    compare: Fraction = Field(default=0.05, description="Probability of a comparison once promoted.")
    on_no_data: OnNoData = Field(
        default=OnNoData.WAIT, description="Past a step's deadline without data: wait, hold or neural."
    )


class Day(StrEnum):
    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


class Window(ApiModel):
    """A time of the week, in UTC."""

    days: list[Day] = Field(
        default_factory=list, max_length=7, description="Days on which it opens; every day where empty."
    )
    start: str = Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="When it opens, such as `22:30`, in UTC."
    )
    duration_minutes: int = Field(ge=1, le=10_080, description="How long it stays open; a week at most.")


DEFAULT_STEPS = (
    Step(mode=StepMode.SHADOW, compare=0.5, min_comparisons=200),
    Step(mode=StepMode.CANARY, weight=0.1, compare=0.5, min_comparisons=100),
    Step(mode=StepMode.CANARY, weight=0.5, compare=0.25, min_comparisons=100),
)


class Rollout(ApiModel):
    """How a validated module comes into service."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.steps) || self.steps.size() == 0 || self.steps[0].mode == 'shadow'",
                "spec.rollout.steps: the first step must be a shadow step, so that nothing unseen answers a request",
            ),
            (
                "!has(self.steps) || self.steps.size() == 0 || !has(self.steps[0].approval) "
                "|| self.steps[0].approval == 'Automatic'",
                "spec.rollout.steps: the first step is a shadow step and answers no request; ask for approval in a "
                "later step, or with spec.rollout.approval",
            ),
        )
    )

    steps: list[Step] = Field(default=list(DEFAULT_STEPS), min_length=1, max_length=16)
    approval: Approval = Field(
        default=Approval.AUTOMATIC,
        description="Required: waits for the command `approve` before the first canary step.",
    )
    windows: list[Window] = Field(
        default_factory=list,
        max_length=16,
        description="When a rollout may start or go to its next step; always where empty. Rollbacks never wait.",
    )
    soak_seconds: int = Field(
        default=0,
        ge=0,
        le=604_800,
        description="After a module is promoted, the next one of this model waits this long, so that an alert has "
        "one suspect.",
    )
    analysis: Analysis = Field(default_factory=Analysis)
    auto_rollback: bool = Field(default=True, description="Roll back without a human when an alert fires.")


class Revalidation(ApiModel):
    """When a module is validated again: after a rollback, and while it serves."""

    schedule: str | None = Field(
        default=None,
        max_length=128,
        pattern=r"^[0-9*/,-]+( [0-9*/,-]+){4}$",
        description="Cron expression with five fields (UTC): promoted modules are validated again while they serve; "
        "those of one minute are spread over ten.",
    )
    max_age_days: int | None = Field(
        default=None, ge=1, le=3650, description="Promoted modules are validated again before this age."
    )
    on_worker_change: bool = Field(
        default=False, description="Promoted modules are validated again when the worker image changes."
    )

    @field_validator("schedule")
    @classmethod
    def _comes_round(cls, value: str | None) -> str | None:
        """The pattern lets through what only arithmetic refuses, such as hour 25."""
        if value is not None and next_time(value, datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise ValueError("this schedule never comes round")
        return value

    on_drift: bool = Field(default=True, description="Revalidate by itself after a rollback.")
    max_attempts: int = Field(default=3, ge=1, le=20, description="After this many failed attempts the module is Held.")
    backoff_seconds: int = Field(
        default=30, ge=1, le=86400, description="Wait before the first attempt; doubles with each."
    )


class DeletionPolicy(StrEnum):
    DELETE = "Delete"
    ORPHAN = "Orphan"


class HybridModelSpec(ApiModel):
    """Desired state of a HybridModel."""

    suspend: bool = Field(
        default=False, description="Stop advancing; what serves keeps serving, alerts still roll back."
    )
    source: Source
    calibration: DataRef
    held_out: DataRef | None = Field(
        default=None, description="Inputs that distillation never sees; validation uses them first."
    )
    jobs: Jobs = Field(default_factory=Jobs)
    distill: Distill = Field(default_factory=Distill)
    equivalence: Equivalence = Field(default_factory=Equivalence)
    serving: Serving = Field(default_factory=Serving)
    rollout: Rollout = Field(default_factory=Rollout)
    revalidation: Revalidation = Field(default_factory=Revalidation)
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.DELETE,
        description="What deleting the HybridModel does to its Deployment, Service and routing table. Delete: they go "
        "with it. Orphan: they stay and answer on the neural path, owned by nobody.",
    )


class ModelPhase(StrEnum):
    """A projection of the conditions for people; never an input to a decision."""

    PENDING = "Pending"
    PROFILING = "Profiling"
    DISTILLING = "Distilling"
    VALIDATING = "Validating"
    ROLLING_OUT = "RollingOut"
    PROMOTED = "Promoted"
    NEURAL = "Neural"
    """Serving, with no segment that pays."""
    DEGRADED = "Degraded"
    """At least one module was rolled back; the neural path serves its segment."""
    SUSPENDED = "Suspended"
    STALLED = "Stalled"


class SegmentStatus(StatusModel):
    """One segment, for people."""

    index: int
    name: str = ""
    compilable: bool = False
    reason: str = ""
    macs: int = 0
    pays: bool | None = None
    strategy: str = ""
    module: str | None = None
    mode: str = "neural"
    evidence: Evidence | None = None
    speedup: float | None = None
    bundle_uri: str | None = None
    bundle_digest: str | None = None


class LifeStatus(StatusModel):
    """What is known of one source: recorded from Job reports, so that it outlives the Jobs."""

    key: str
    source_uri: str = ""
    source_digest: str | None = None
    plan_uri: str | None = None
    profiled: bool = False
    distilled: bool = False
    segments: list[SegmentStatus] = Field(default_factory=list)


class RoutingStatus(StatusModel):
    """The routing table in force; its generations only grow."""

    generation: int = 0
    life: str = ""
    table_json: str = ""
    acknowledged_pods: int = 0
    live_pods: int = 0


class CommandStatus(StatusModel):
    """The last command, its token and the answer."""

    token: str
    command: str
    answer: str
    executed_at: str = ""
    earlier_tokens: list[str] = Field(
        default_factory=list, max_length=16, description="Tokens of the commands before this one, newest first."
    )


class FailureStatus(StatusModel):
    """Failed attempts of the step in progress; the wait before the next one doubles."""

    step: str
    attempts: int = 0
    code: int = 0
    message: str = ""
    at: str = ""


class CostStatus(StatusModel):
    """What the model's Jobs have used since it was made, retries and failures included."""

    runs: int = Field(default=0, description="Runs of Pods that left a report.")
    cpu_seconds: float = Field(default=0.0, description="Processor time, measured.")
    gpu_seconds: float = Field(default=0.0, description="GPUs times the time for which runs held them.")
    peak_memory_bytes: int = Field(default=0, description="Largest resident set of any run, measured.")
    joules: float = Field(default=0.0, description="Energy; `method` says how it is known.")
    method: str = ""
    price: float = Field(default=0.0, description="In the unit of the operator's prices; 0 where it knows none.")
    counted: list[str] = Field(default_factory=list, description="Jobs that still exist and are counted already.")


class HybridModelStatus(BaseModel):
    """Observed state. Unknown fields of later versions are read and kept out."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, alias_generator=ApiModel.model_config["alias_generator"]
    )

    observed_generation: int = 0
    phase: ModelPhase = ModelPhase.PENDING
    message: str = Field(default="", description="One sentence: what is happening, or what to do.")
    conditions: list[Condition] = Field(default_factory=list)
    progress: str = Field(default="", description="Progress of the running Job, such as `distill 1/2 compile 60%`.")
    life: LifeStatus | None = Field(default=None, description="The life that spec asks for.")
    serving: LifeStatus | None = Field(default=None, description="The life that pods serve.")
    routing: RoutingStatus = Field(default_factory=RoutingStatus)
    deterministic_coverage: float | None = Field(
        default=None, description="Share of requests answered by compiled code in every compiled segment."
    )
    proven_coverage: float | None = Field(
        default=None, description="The same, counting only inputs for which the module is proven; by compared requests."
    )
    speedup: float | None = Field(default=None, description="Measured latency of the neural path over ours.")
    evidence: str = Field(default="", description="Label of the weakest evidence in service.")
    replicas: int = 0
    ready_replicas: int = 0
    audit_head: str = Field(default="", description="Hash of the newest audit record.")
    audit_sequence: int = 0
    last_command: CommandStatus | None = None
    failure: FailureStatus | None = None
    cost: CostStatus | None = None
    neural_replicas: int = Field(
        default=0, description="Least number of Pods while modules are out of service, from measured load; 0: as usual."
    )
    orphaning_since: str = Field(
        default="", description="Since when a deleted model with deletionPolicy Orphan waits for its pods."
    )


class HybridModel(BaseModel):
    """The whole object as the API serves it."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    api_version: Literal["ecompile.dev/v1alpha1"] = Field(alias="apiVersion", default="ecompile.dev/v1alpha1")
    kind: Literal["HybridModel"] = "HybridModel"
    metadata: dict[str, Any]
    spec: HybridModelSpec
    status: HybridModelStatus = Field(default_factory=HybridModelStatus)
