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
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from pydantic import ValidationError

from ..data import store
from ..data.arrays import ELEMENT_TYPES, feeds, gathered
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
        self._sources = session.get_inputs()
        source = self._sources[0]
        self._run = session.run
        self._input = source.name
        self._outputs = [each.name for each in session.get_outputs()]
        self._shape = tuple(int(extent) for extent in source.shape[1:])
        self._dtype = ELEMENT_TYPES[source.type]
        self._simple = len(self._sources) == len(self._outputs) == 1
        self._single_row = source.shape[0] == 1
        """The file fixes the batch to one row; larger batches run row by row."""

    def __call__(self, rows: Rows) -> Rows:
        """Outputs [rows, outputs].

        Raises DataError where the network computes nothing of these inputs, such as a word that does not exist.
        """
        count = rows.shape[0]
        if self._single_row and count > 1:
            return np.concatenate([self(rows[i : i + 1]) for i in range(count)])
        try:
            if not self._simple:
                return gathered(self._run(self._outputs, feeds(self._sources, rows)))
            feed = rows.reshape(count, *self._shape).astype(self._dtype, copy=False)
            result: Rows = self._run(self._outputs, {self._input: feed})[0]
        except InvalidArgument as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(Code.REQUEST_INVALID, f"the network computes nothing of these inputs: {reason}") from error
        return result.reshape(count, -1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The plan with its sessions loaded."""

    plan: Plan
    whole: NeuralPath
    segments: tuple[NeuralPath, ...]
    row_seconds: float
    """Measured time of one row through the whole network."""


def read_plan(plan_uri: str, *, resolve: Callable[[str], str] = lambda uri: uri) -> Plan:
    """Read and check a plan.

    Raises DataError or ResourceError where the file is missing or malformed.
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
    return plan


def load_path(plan_uri: str, file: PlanFile, *, resolve: Callable[[str], str] = lambda uri: uri) -> NeuralPath:
    """The session of one of the plan's files, which lie beside it.

    Raises DataError or ResourceError where the file is missing or altered, ModelError where it is no model.
    """
    name = PurePosixPath(file.path).name
    uri = f"{plan_uri.rsplit('/', 1)[0]}/{name}"
    return NeuralPath(store.read(resolve(uri), digest=file.digest, what=name), what=name)


def load_reference(
    plan_uri: str, segment: PlanSegment, *, resolve: Callable[[str], str] = lambda uri: uri
) -> Reference | None:
    """Of a plan's segment; None where the plan is older than references, or has too few rows for one.

    Raises DataError or ResourceError where the file is missing, altered or not of this segment.
    """
    file = segment.reference
    if file is None:
        return None
    uri = f"{plan_uri.rsplit('/', 1)[0]}/{file.path}"
    found = references.read(store.read(resolve(uri), digest=file.digest, what=file.path), name=file.path)
    if found.features != segment.input.size:
        raise DataError(
            Code.DATA_SHAPE, f"{file.path}: {found.features} features; {segment.name} has {segment.input.size}."
        )
    return found


def load_network(plan_uri: str, *, resolve: Callable[[str], str] = lambda uri: uri) -> Network:
    """Read the plan and its files, check their digests, load and warm the sessions. `resolve` turns a URI into the one
    by which this machine reaches the file.

    Raises DataError or ResourceError where a file is missing or altered, ModelError where it is no model.
    """
    plan = read_plan(plan_uri, resolve=resolve)
    loaded: dict[str, NeuralPath] = {}

    def path(file: PlanFile) -> NeuralPath:
        if file.digest not in loaded:
            loaded[file.digest] = load_path(plan_uri, file, resolve=resolve)
        return loaded[file.digest]

    whole = path(plan.neural)
    segments = tuple(path(segment.neural) for segment in plan.segments)
    for segment, each in zip(plan.segments, segments, strict=True):
        each.reference = load_reference(plan_uri, segment, resolve=resolve)
        each.distance = Distance(each.reference) if each.reference is not None else None
    row = np.zeros((1, plan.input.size), dtype=np.float32)
    for segment, each in zip(plan.segments, segments, strict=True):
        each(np.zeros((1, segment.input.size), dtype=np.float32))
    return Network(plan=plan, whole=whole, segments=segments, row_seconds=_measure(whole, row))


def _measure(path: NeuralPath, row: Rows) -> float:
    best = float("inf")
    for _ in range(WARM_RUNS):
        start = time.perf_counter()
        path(row)
        best = min(best, time.perf_counter() - start)
    return best
