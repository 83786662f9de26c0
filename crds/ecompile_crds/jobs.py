"""What Jobs are told (environment) and what they report (termination message, at most 4 KiB of JSON)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import Code
from .evidence import Evidence

TERMINATION_MESSAGE_LIMIT_BYTES = 4096
"""The kubelet cuts termination messages here (Kubernetes, `terminationMessagePath`)."""

NOTE_CHARACTERS = 120
"""Of each candidate's note, where the message would be too long."""


class JobKind(StrEnum):
    PROFILE = "profile"
    DISTILL = "distill"
    VALIDATE = "validate"


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class JobInput(_Report):
    """Environment variable ECO_JOB_INPUT (JSON) of each Job."""

    kind: JobKind
    namespace: str
    model: str
    job: str
    life: str
    source_uri: str = Field(alias="sourceUri")
    source_digest: str | None = Field(default=None, alias="sourceDigest")
    source_format: str = Field(default="onnx", alias="sourceFormat")
    calibration_uri: str = Field(alias="calibrationUri")
    calibration_digest: str | None = Field(default=None, alias="calibrationDigest")
    held_out_uri: str | None = Field(default=None, alias="heldOutUri")
    artifacts_uri: str = Field(alias="artifactsUri")
    """Where results go: `<artifactsUri>/<namespace>/<model>/<life>/...`, an fsspec URI."""
    distill: dict[str, object] = Field(default_factory=dict)
    """HybridModel.spec.distill as written."""
    equivalence: dict[str, object] = Field(default_factory=dict)
    """HybridModel.spec.equivalence as written."""
    plan_uri: str | None = Field(default=None, alias="planUri")
    """Distill and validate: what the profile Job wrote."""
    segments: tuple[int, ...] = ()
    """Distill: JOB_COMPLETION_INDEX counts into this list of segment numbers."""
    segment: int | None = None
    """Validate: the segment."""
    bundle_uri: str | None = Field(default=None, alias="bundleUri")
    bundle_digest: str | None = Field(default=None, alias="bundleDigest")
    attempt: int = 1


class SegmentReport(_Report):
    """One segment as profiling found it."""

    index: int
    name: str
    compilable: bool
    reason: str = ""
    """Why it stays neural, naming the operators, where it does."""
    macs: int = 0
    stability: float | None = None
    """Mean S over its units; reported, never a gate."""


class Failure(_Report):
    """Why a Job failed."""

    code: Code
    message: str
    retryable: bool


class ProfileReport(_Report):
    kind: Literal["profile"] = "profile"
    source_digest: str = Field(alias="sourceDigest")
    plan_uri: str = Field(alias="planUri")
    segments: tuple[SegmentReport, ...]
    trace_digest: str | None = Field(default=None, alias="traceDigest")
    stability_digest: str | None = Field(default=None, alias="stabilityDigest")


class CandidateReport(_Report):
    """What one strategy came to for a segment: measured, or declined."""

    strategy: str
    microseconds: float | None = None
    """Per row of the calibration at batch 1, rows that it leaves to the neural path included; None: declined."""
    speedup: float | None = None
    """ONNX Runtime's time divided by it."""
    evidence: Evidence | None = None
    answered: float | None = None
    """Share of the measured rows that it answers itself."""
    note: str = ""
    """What it is where it was measured; why not where it declined."""


class DistillReport(_Report):
    """One index of the distill Job: one segment."""

    kind: Literal["distill"] = "distill"
    segment: int
    pays: bool
    reason: str = ""
    bundle_uri: str | None = Field(default=None, alias="bundleUri")
    bundle_digest: str | None = Field(default=None, alias="bundleDigest")
    strategy: str = ""
    evidence: Evidence | None = None
    proof: Evidence | None = None
    """What is proven of part of the traffic, beside the evidence of the whole module."""
    speedup: float | None = None
    """Median latency of ONNX Runtime divided by ours at batch 1, measured in the Job."""
    neural_microseconds: float | None = Field(default=None, alias="neuralMicroseconds")
    candidates: tuple[CandidateReport, ...] = ()
    """All strategies that were asked, in the order of `Strategy`."""


class ValidateReport(_Report):
    kind: Literal["validate"] = "validate"
    segment: int
    attempt: int
    passed: bool
    reason: str = ""
    code: Code | None = None
    delta: float | None = None
    """Mean relative error over the test inputs."""
    correlation: float | None = None
    max_deviation: float | None = Field(default=None, alias="maxDeviation")
    test_inputs: int = Field(default=0, alias="testInputs")
    ood_inputs: int = Field(default=0, alias="oodInputs")
    guard_coverage: float | None = Field(default=None, alias="guardCoverage")
    speedup: float | None = None
    report_uri: str | None = Field(default=None, alias="reportUri")


class JobCost(_Report):
    """What one run used, failed or not."""

    cpu_seconds: float = Field(alias="cpuSeconds", ge=0, le=1e12, allow_inf_nan=False)
    """Processor time of the process and its children."""
    wall_seconds: float = Field(default=0.0, alias="wallSeconds", ge=0, le=1e12, allow_inf_nan=False)
    peak_memory_bytes: int = Field(default=0, alias="peakMemoryBytes", ge=0, le=1 << 60)
    """Largest resident set of the process or one of its children."""
    gpu_seconds: float = Field(default=0.0, alias="gpuSeconds", ge=0, le=1e12, allow_inf_nan=False)
    """GPUs that the container saw, times the time that it ran."""
    gpu_joules: float | None = Field(default=None, alias="gpuJoules", ge=0, le=1e15, allow_inf_nan=False)
    """Measured by NVML; counts whole devices."""


class JobResult(_Report):
    """The termination message."""

    profile: ProfileReport | None = None
    distill: DistillReport | None = None
    validation: ValidateReport | None = None
    failure: Failure | None = None
    cost: JobCost | None = None

    def to_message(self) -> str:
        """JSON within the kubelet's limit; long reasons are shortened rather than cut mid-way."""
        text = self.model_dump_json(by_alias=True, exclude_none=True)
        if len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES:
            return text
        shortened = self
        if self.profile is not None:
            segments = tuple(s.model_copy(update={"reason": s.reason[:60]}) for s in self.profile.segments)
            shortened = self.model_copy(update={"profile": self.profile.model_copy(update={"segments": segments})})
        elif self.distill is not None:
            brief = tuple(c.model_copy(update={"note": c.note[:NOTE_CHARACTERS]}) for c in self.distill.candidates)
            cut = {"reason": self.distill.reason[:1000], "candidates": brief}
            shortened = self.model_copy(update={"distill": self.distill.model_copy(update=cut)})
        elif self.failure is not None:
            failure = self.failure.model_copy(update={"message": self.failure.message[:1500]})
            shortened = self.model_copy(update={"failure": failure})
        return shortened.model_dump_json(by_alias=True, exclude_none=True)
