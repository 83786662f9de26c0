"""The plan: what the profile Job writes and distill Jobs, validate Jobs and serving pods read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import ApiModel
from .hybridmodel import Digest


class PlanFile(ApiModel):
    """A file next to plan.json."""

    path: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    digest: Digest


class PlanTensor(ApiModel):
    """A tensor at the border of the network or of a segment; the batch dimension is left out. It flows as float32."""

    name: str
    shape: tuple[int, ...]
    datatype: Literal["FP32", "INT64", "BOOL"] = "FP32"
    """What the network has there, in the words of the Open Inference Protocol."""

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
    predicted_microseconds: float | None = None
    """Of compiled code, one row, by the cost model of the machine that profiled; None where it has none."""


class Plan(ApiModel):
    """How a network is cut. Segments are in order; the output of one is the input of the next."""

    schema_version: int = 2
    namespace: str
    model: str
    life: str
    source_digest: Digest
    source_format: str
    input: PlanTensor
    """One row of all inputs, flattened, where there are several."""
    output: PlanTensor
    """One row of all outputs, flattened, where there are several."""
    inputs: tuple[PlanTensor, ...] = ()
    """The parts of `input`, in order; empty where the network has one input."""
    outputs: tuple[PlanTensor, ...] = ()
    """The parts of `output`, in order; empty where the network has one output."""
    neural: PlanFile
    """The whole network as ONNX with a dynamic batch: the path that can always take all the traffic."""
    graph: PlanFile
    """The imported network in our IR (JSON and raw weights in one zip), so that later Jobs need no importer."""
    segments: tuple[PlanSegment, ...]
    trace: PlanFile | None = None
    stability: PlanFile | None = None

    @property
    def network_inputs(self) -> tuple[PlanTensor, ...]:
        """What a client sends."""
        return self.inputs or (self.input,)

    @property
    def network_outputs(self) -> tuple[PlanTensor, ...]:
        """What a client gets."""
        return self.outputs or (self.output,)
