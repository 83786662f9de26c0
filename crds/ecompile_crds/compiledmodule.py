"""CompiledModule: one immutable attempt to replace one segment by code. The operator writes it; users read it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .base import ApiModel, StatusModel, cel
from .conditions import Condition
from .evidence import Evidence
from .hybridmodel import CommandStatus, Digest, Uri


class BundleRef(ApiModel):
    """The bundle, by content."""

    uri: Uri
    digest: Digest


class CompiledModuleSpec(ApiModel):
    """Immutable."""

    model_config = ConfigDict(
        json_schema_extra=cel(("self == oldSelf", "spec is immutable: a new attempt is a new CompiledModule"))
    )

    model_ref: str = Field(min_length=1, max_length=63, description="Name of the HybridModel in the same namespace.")
    segment: int = Field(ge=0, le=1024)
    life: str = Field(min_length=1, max_length=63, description="Life key of the source it was made from.")
    bundle: BundleRef
    source_digest: Digest
    attempt: int = Field(default=1, ge=1)
    strategy: str = Field(default="exact", max_length=64)
    evidence: Evidence
    speedup: float | None = Field(
        default=None, description="Measured in the distill Job, against ONNX Runtime, batch 1."
    )


class Stage(StrEnum):
    """Where a module is in its life."""

    PENDING = "Pending"
    VALIDATING = "Validating"
    VALIDATED = "Validated"
    SHADOW = "Shadow"
    CANARY = "Canary"
    PROMOTED = "Promoted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    REVALIDATING = "Revalidating"
    REJECTED = "Rejected"
    HELD = "Held"
    RETIRED = "Retired"


SERVING_STAGES = frozenset({Stage.SHADOW, Stage.CANARY, Stage.PROMOTED})
"""Stages in which pods have the module loaded and route to it or compare with it."""
FINAL_STAGES = frozenset({Stage.REJECTED, Stage.RETIRED})
"""Stages that are not left, except that a retired module is validated again once its source is wanted again."""


class RolloutStatus(StatusModel):
    """The machine's state: the only part of status that decisions read."""

    stage: Stage = Stage.PENDING
    step: int = Field(default=0, description="Index into spec.rollout.steps while Shadow or Canary.")
    since: str = Field(default="", description="When this stage or step began; RFC 3339.")
    generation: int = Field(default=0, description="Routing generation that brought this stage or step into force.")
    attempt: int = Field(default=1, description="Validation attempt; grows with each revalidation.")
    failures: int = Field(default=0, description="Failed attempts since the module was last promoted.")
    not_before: str = Field(default="", description="RolledBack: when the next revalidation starts.")
    approved: bool = False
    validated_at: str = Field(default="", description="When the newest validation passed; RFC 3339.")
    checker: str = Field(default="", description="Worker image that validated it.")
    checking: bool = Field(default=False, description="Promoted: is validated again while it serves.")


class RollbackStatus(StatusModel):
    """Why and when the module was last taken out of service."""

    reason: str
    detail: str = ""
    value: float = 0.0
    limit: float = 0.0
    at: str = ""
    generation: int = 0
    routed_neural_in_seconds: float | None = Field(
        default=None, description="From the alert's arrival to the last live pod's acknowledgement."
    )


class Measurements(StatusModel):
    """Figures of the step in force, summed over pods; for people."""

    requests: int = 0
    comparisons: int = 0
    fallbacks: int = 0
    guard_checked: int = Field(default=0, description="Requests that the module was asked to answer.")
    mean_delta: float | None = None
    max_delta: float | None = None
    delta_bound: float | None = Field(
        default=None, description="Upper bound of the mean delta with the confidence of spec.equivalence."
    )
    fallback_rate: float | None = None
    speedup: float | None = None


class ValidationStatus(StatusModel):
    """Result of the newest validation."""

    attempt: int = 0
    passed: bool = False
    reason: str = ""
    delta: float | None = None
    correlation: float | None = None
    max_deviation: float | None = None
    test_inputs: int = 0
    ood_inputs: int = 0
    speedup: float | None = None
    report_uri: str | None = None


class CompiledModuleStatus(BaseModel):
    """Observed state."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, alias_generator=ApiModel.model_config["alias_generator"]
    )

    observed_generation: int = 0
    phase: Stage = Field(default=Stage.PENDING, description="rollout.stage, for people.")
    step: str = Field(default="", description="Such as `2/3 canary 50%`.")
    message: str = ""
    rollout: RolloutStatus = Field(default_factory=RolloutStatus)
    validation: ValidationStatus | None = None
    measurements: Measurements | None = None
    last_rollback: RollbackStatus | None = None
    rollbacks: int = 0
    conditions: list[Condition] = Field(default_factory=list)
    last_command: CommandStatus | None = None


class CompiledModule(BaseModel):
    """The whole object as the API serves it."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    api_version: Literal["ecompile.dev/v1alpha1"] = Field(alias="apiVersion", default="ecompile.dev/v1alpha1")
    kind: Literal["CompiledModule"] = "CompiledModule"
    metadata: dict[str, Any]
    spec: CompiledModuleSpec
    status: CompiledModuleStatus = Field(default_factory=CompiledModuleStatus)
