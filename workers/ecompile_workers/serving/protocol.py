"""Open Inference Protocol v2, what REST and gRPC share: tensors to rows, parameters, what an answer says. Pure.

Not here: bytes of either transport; see rest.py and oip_grpc.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from ecompile_crds.errors import Code, DataError, ModelError
from ecompile_crds.plan import Plan, PlanTensor
from ecompile_crds.tracing import TraceContext
from numpy.typing import NDArray

from .bridge import Outcome, describe
from .neural import Rows

MAX_BODY_BYTES: Final = 16 << 20
"""Largest request, in either protocol."""
DATATYPES: Final[Mapping[str, np.dtype[np.generic]]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "FP16": np.dtype("<f2"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
}
"""Datatypes accepted, as they are in binary tensors; all are computed in FP32, as the network is."""
SERVER_NAME: Final = "ecompile"
PLATFORM: Final = "ecompile"
EXTENSIONS: Final = ("binary_tensor_data",)


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of a request."""

    neural_only: bool = False
    """path=neural: answered by the original network."""
    explain: bool = False
    """explain=true: the answer says why, per segment."""
    group: str = ""
    """group=...: the group whose errors this request counts for (spec.equivalence.fairness)."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request."""

    rows: Rows
    """[rows, features] float32, C-contiguous."""
    options: Options = Options()
    identifier: str | None = None
    binary_output: bool = False
    """REST: the output is wanted as bytes after the JSON."""
    trace: TraceContext | None = None
    """Of its span, where it is traced."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of one request."""

    outcome: Outcome
    """Of the pass that answered it, which other requests may have shared."""
    y: Rows
    """[rows, outputs] float32: this request's rows."""
    explanation: str = ""

    def parameters(self) -> dict[str, str | int]:
        """Which path served each segment and why; the same names in REST and gRPC."""
        path, segments = describe(self.outcome.served)
        found: dict[str, str | int] = {
            "path": path,
            "segments": segments,
            "generation": self.outcome.state.generation,
        }
        if self.explanation:
            found["explanation"] = self.explanation
        return found


def parse_options(parameters: object) -> Options:
    """Options from the request's parameters; names of other servers are left alone, as the protocol asks.

    Raises DataError naming the parameter at fault.
    """
    if not parameters:
        if parameters is None or parameters == {}:
            return NO_OPTIONS
        raise DataError(Code.REQUEST_INVALID, "parameters must be an object.")
    if not isinstance(parameters, Mapping):
        raise DataError(Code.REQUEST_INVALID, "parameters must be an object, such as parameters.path 'neural'.")
    path, explain = parameters.get("path"), parameters.get("explain", False)
    if path not in (None, "neural"):
        raise DataError(Code.REQUEST_INVALID, "parameters.path may be 'neural' (the original network), or left out.")
    if not isinstance(explain, bool):
        raise DataError(Code.REQUEST_INVALID, "parameters.explain must be true or false.")
    group = parameters.get("group", "")
    if not isinstance(group, str) or len(group) > MAX_GROUP:
        raise DataError(Code.REQUEST_INVALID, f"parameters.group must be a string of at most {MAX_GROUP} characters.")
    return Options(neural_only=path == "neural", explain=explain, group=group)


NO_OPTIONS: Final = Options()
MAX_GROUP: Final = 64


def check_tensor(name: object, datatype: object, shape: object, expected: PlanTensor) -> int:
    """The number of rows of an input tensor.

    Raises DataError naming the field at fault.
    """
    if name != expected.name:
        raise DataError(Code.REQUEST_INVALID, f"inputs[0].name is {show(name)}; the model takes {expected.name!r}.")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise DataError(
            Code.REQUEST_INVALID,
            f"inputs[0].datatype is {show(datatype)}; send FP32, FP64 or an integer type.",
        )
    wanted = [*expected.shape]
    if (
        not isinstance(shape, list)
        or shape[1:] != wanted
        or type(shape[0]) is not int
        or shape[0] < 1
        or any(type(extent) is not int for extent in shape)
    ):
        raise DataError(
            Code.DATA_SHAPE,
            f"inputs[0].shape is {show(shape)}; it must be [rows, {', '.join(map(str, wanted))}].",
        )
    rows: int = shape[0]
    return rows


def rows_from_values(data: object, rows: int, expected: PlanTensor) -> Rows:
    """Rows from JSON numbers, flat or nested as the shape says.

    Raises DataError.
    """
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise DataError(Code.DATA_SHAPE, "inputs[0].data is ragged; send it flat, or nested as shape says.") from error
    if values.dtype.kind not in "fiu" or values.ndim == 0:
        raise DataError(Code.DATA_MALFORMED, "inputs[0].data must be a list of numbers only.")
    shape = (rows, *expected.shape)
    if values.size != rows * expected.size or (values.ndim > 1 and values.shape != shape):
        raise DataError(
            Code.DATA_SHAPE,
            f"inputs[0].data has {values.size} values in shape {list(values.shape)}; inputs[0].shape {list(shape)} "
            f"needs {rows * expected.size}.",
        )
    return _float32(values, rows, expected)


def rows_from_bytes(raw: bytes | memoryview, datatype: str, rows: int, expected: PlanTensor) -> Rows:
    """Rows from a binary tensor: little-endian elements, row after row.

    Raises DataError where there are too many or too few bytes.
    """
    dtype = DATATYPES[datatype]
    needed = rows * expected.size * dtype.itemsize
    if len(raw) != needed:
        raise DataError(
            Code.DATA_SHAPE,
            f"inputs[0] has {len(raw)} bytes of binary data; {rows} rows of {expected.size} {datatype} need {needed}.",
        )
    return _float32(np.frombuffer(raw, dtype=dtype), rows, expected)


def _float32(values: NDArray[np.generic], rows: int, expected: PlanTensor) -> Rows:
    """Beyond float32 is infinite, which every guard refuses; the pod tells numpy not to warn of it (pod.py)."""
    return np.ascontiguousarray(values.reshape(rows, expected.size), dtype=np.float32)


def check_outputs(names: Sequence[object], expected: PlanTensor) -> None:
    """Raises DataError where anything but the one output is asked for; nothing asked for means all."""
    if names and list(names) != [expected.name]:
        raise DataError(Code.REQUEST_INVALID, f"outputs may name one tensor only: {expected.name!r}.")


def one_input(count: int, plan: Plan) -> None:
    """Raises DataError unless there is exactly one input tensor."""
    if count != 1:
        raise DataError(
            Code.REQUEST_INVALID,
            f"inputs must be a list with one tensor, named {plan.input.name!r}; see the metadata.",
        )


def unknown_model(name: str, version: str | None, *, model: str, served_version: str) -> ModelError:
    """The error for a model or version that is not served here."""
    if name != model:
        return ModelError(Code.MODEL_NOT_FOUND, f"model {show(name)} is not served here; this pod serves {model!r}.")
    return ModelError(
        Code.MODEL_NOT_FOUND,
        f"version {show(version)} of {model!r} is not served; the version is {served_version!r}.",
    )


def too_large() -> DataError:
    """The error for a request above MAX_BODY_BYTES."""
    return DataError(
        Code.REQUEST_TOO_LARGE, f"the request body is larger than {MAX_BODY_BYTES >> 20} MiB: send fewer rows."
    )


def show(value: object) -> str:
    """A value of the client's in a sentence, cut off."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
