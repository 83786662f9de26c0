"""The plan: what the profile Job writes and distill Jobs, validate Jobs and serving pods read."""

from __future__ import annotations

from pydantic import Field

from .base import ApiModel
from .hybridmodel import Digest


class PlanFile(ApiModel):
    """A file next to plan.json."""

    path: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    digest: Digest


class PlanTensor(ApiModel):
    """A tensor at the border of the network or of a segment; the batch dimension is left out. float32."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements per row."""
        result = 1
        for extent in self.shape:
            result *= extent
        return result


class PlanSegment(ApiModel):
    """One segment: its neural path as an ONNX file, and whether it can be compiled."""

    index: int
    name: str
    compilable: bool
    reason: str = ""
    input: PlanTensor
    output: PlanTensor
    neural: PlanFile
    macs: int = 0
    stability: float | None = None
    reference: PlanFile | None = None
    """What the calibration inputs look like here (trace/reference.py); since schema version 2."""


class Plan(ApiModel):
    """How a network is cut. Segments are in order; the output of one is the input of the next."""

    schema_version: int = 2
    namespace: str
    model: str
    life: str
    source_digest: Digest
    source_format: str
    input: PlanTensor
    output: PlanTensor
    neural: PlanFile
    """The whole network as ONNX with a dynamic batch: the path that can always take all the traffic."""
    graph: PlanFile
    """The imported network in our IR (JSON and raw weights in one zip), so that later Jobs need no importer."""
    segments: tuple[PlanSegment, ...]
    trace: PlanFile | None = None
    stability: PlanFile | None = None
