"""The neural path: the plan, and ONNX Runtime sessions for the whole network and for each segment. One thread each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import onnxruntime
from ecompile_crds.errors import Code, DataError, ModelError
from ecompile_crds.plan import Plan, PlanFile, PlanSegment
from numpy.typing import NDArray
from pydantic import ValidationError

from ..data import store
from ..data.arrays import ELEMENT_TYPES
from ..trace import reference as references
from ..trace.reference import Reference
from .policy import Distance

Rows = NDArray[np.float32]
WARM_RUNS = 5


class NeuralPath:
    """One ONNX Runtime session; takes and gives rows [rows, features] float32. Safe to call from several threads."""

    def __init__(self, model: bytes, *, what: str) -> None:
        self.reference: Reference | None = None
        """What the inputs of calibration looked like here, where that is known."""
        self.distance: Distance | None = None
        """The same, for single requests."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own without a common base
            raise ModelError(Code.MODEL_MALFORMED, f"{what} cannot be loaded by ONNX Runtime: {error}.") from error
        source = session.get_inputs()[0]
        self._run = session.run
        self._input = source.name
        self._outputs = [session.get_outputs()[0].name]
        self._shape = tuple(int(extent) for extent in source.shape[1:])
        self._dtype = ELEMENT_TYPES[source.type]
        self._single_row = source.shape[0] == 1
        """The file fixes the batch to one row; larger batches run row by row."""

    def __call__(self, rows: Rows) -> Rows:
        """Outputs [rows, outputs]."""
        count = rows.shape[0]
        if self._single_row and count > 1:
            return np.concatenate([self(rows[i : i + 1]) for i in range(count)])
        feed = rows.reshape(count, *self._shape).astype(self._dtype, copy=False)
        result: Rows = self._run(self._outputs, {self._input: feed})[0]
        return result.reshape(count, -1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The plan with its sessions loaded."""

    plan: Plan
    whole: NeuralPath
    segments: tuple[NeuralPath, ...]
    row_seconds: float
    """Measured time of one row through the whole network."""


def load_network(plan_uri: str, *, resolve: Callable[[str], str] = lambda uri: uri) -> Network:
    """Read the plan and its files, check their digests, load and warm the sessions. `resolve` turns a URI into the one
    by which this machine reaches the file.

    Raises DataError or ResourceError where a file is missing or altered, ModelError where it is no model.
    """
    content = store.read(resolve(plan_uri), what="ECO_PLAN_URI")
    try:
        plan = Plan.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(Code.DATA_MALFORMED, f"ECO_PLAN_URI: {plan_uri}: {where}: {first['msg']}.") from error
    if [segment.index for segment in plan.segments] != list(range(len(plan.segments))) or not plan.segments:
        raise DataError(Code.DATA_MALFORMED, f"ECO_PLAN_URI: {plan_uri}: segments are not numbered from 0.")
    base = plan_uri.rsplit("/", 1)[0]
    loaded: dict[str, NeuralPath] = {}

    def path(file: PlanFile) -> NeuralPath:
        if file.digest not in loaded:
            name = PurePosixPath(file.path).name
            loaded[file.digest] = NeuralPath(
                store.read(resolve(f"{base}/{name}"), digest=file.digest, what=name), what=name
            )
        return loaded[file.digest]

    whole = path(plan.neural)
    segments = tuple(path(segment.neural) for segment in plan.segments)
    for segment, each in zip(plan.segments, segments, strict=True):
        each.reference = _reference(segment, base, resolve)
        each.distance = Distance(each.reference) if each.reference is not None else None
    row = np.zeros((1, plan.input.size), dtype=np.float32)
    for segment, each in zip(plan.segments, segments, strict=True):
        each(np.zeros((1, segment.input.size), dtype=np.float32))
    return Network(plan=plan, whole=whole, segments=segments, row_seconds=_measure(whole, row))


def _reference(segment: PlanSegment, base: str, resolve: Callable[[str], str]) -> Reference | None:
    """Of a plan's segment; None where the plan is older than references, or has too few rows for one."""
    if segment.reference is None:
        return None
    content = store.read(
        resolve(f"{base}/{segment.reference.path}"), digest=segment.reference.digest, what=segment.reference.path
    )
    found = references.read(content, name=segment.reference.path)
    if found.features != segment.input.size:
        raise DataError(
            Code.DATA_SHAPE,
            f"{segment.reference.path}: {found.features} features; {segment.name} has {segment.input.size}.",
        )
    return found


def _measure(path: NeuralPath, row: Rows) -> float:
    best = float("inf")
    for _ in range(WARM_RUNS):
        start = time.perf_counter()
        path(row)
        best = min(best, time.perf_counter() - start)
    return best
