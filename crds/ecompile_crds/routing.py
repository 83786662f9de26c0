"""Routing tables: what the operator tells serving pods, and what they acknowledge."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from .hybridmodel import ServingPolicy


class RouteMode(StrEnum):
    """How a segment is served."""

    NEURAL = "neural"
    SHADOW = "shadow"
    """Answers come from the neural path; a share of requests is also run compiled and compared."""
    CANARY = "canary"
    """A share of requests (`weight`) is answered by the compiled module."""
    COMPILED = "compiled"


class SegmentRoute(BaseModel):
    """Route of one segment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    segment: int = Field(ge=0)
    mode: RouteMode = RouteMode.NEURAL
    weight: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of requests answered by the module in mode canary."""
    compare: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a request is also run on the other path and compared (shadow, canary and compiled)."""
    module: str | None = None
    """Name of the CompiledModule."""
    bundle_uri: str | None = Field(default=None, alias="bundleUri")
    bundle_digest: str | None = Field(default=None, alias="bundleDigest")


class RoutingTable(BaseModel):
    """All routes of one HybridModel. Generations only grow; a pod refuses an older one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    model: str
    namespace: str
    life: str
    """Life key of the source that the routes belong to; a pod serving another life ignores the table."""
    generation: Annotated[int, Field(ge=1)]
    segments: tuple[SegmentRoute, ...] = ()
    policy: ServingPolicy = ServingPolicy()
    """Which inputs the modules may answer."""

    def rolling(self) -> bool:
        """Whether a module is on trial: then pods report each second, because decisions wait for their figures."""
        return any(s.mode in (RouteMode.SHADOW, RouteMode.CANARY) for s in self.segments)

    def neural(self, generation: int) -> RoutingTable:
        """The same segments, all on the neural path, under a new generation."""
        return self.model_copy(
            update={
                "generation": generation,
                "segments": tuple(SegmentRoute(segment=s.segment) for s in self.segments),
            }
        )
