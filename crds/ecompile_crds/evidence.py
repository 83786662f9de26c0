"""Evidence: why a module may serve. Never shown without its label."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class EvidenceKind(StrEnum):
    PROVEN = "proven"
    """Holds for every input in the stated box."""
    CERTIFIED = "certified"
    """A bound computed at run time holds for this input."""
    SAMPLED = "sampled"
    """A statistical bound from `samples` inputs."""


class Evidence(BaseModel):
    """A claim with its label."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: EvidenceKind
    samples: int | None = Field(default=None, ge=0)
    bound: float | None = Field(default=None, ge=0)
    """Proven, certified: largest |compiled - original|. Sampled: upper bound of the violation probability."""
    confidence: float | None = Field(default=None, gt=0, lt=1)
    box: str | None = None
    """Digest of the box that a proof holds on."""
    proven_coverage: float | None = Field(default=None, ge=0, le=1, alias="provenCoverage")
    """Share of held-out traffic that lies inside of proven boxes; what is claimed of those is in the bundle's proof."""

    def label(self) -> str:
        """One cell of a table, such as `sampled(n=1100, <=2.7e-03)`."""
        bound = "" if self.bound is None else f"<={self.bound:.1e}"
        match self.kind:
            case EvidenceKind.SAMPLED:
                proven = "" if self.proven_coverage is None else f", {self.proven_coverage:.1%} in proven boxes"
                return f"sampled(n={self.samples or 0}, {bound}{proven})"
            case EvidenceKind.PROVEN | EvidenceKind.CERTIFIED:
                return f"{self.kind.value}({bound})"
