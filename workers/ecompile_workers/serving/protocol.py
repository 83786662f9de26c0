"""Open Inference Protocol v2, what REST and gRPC share: tensors to rows, parameters, what an answer says. Pure.

Not here: bytes of either transport; see rest.py and oip_grpc.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

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
    "BOOL": np.dtype("?"),
}
"""Datatypes accepted, as they are in binary tensors. Rows hold them as float32, exact up to 2**24."""
SERVER_NAME: Final = "ecompile"
PLATFORM: Final = "ecompile"
FIRST: Final = "inputs[0]"
EXTENSIONS: Final = ("binary_tensor_data",)


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of a request."""

    neural_only: bool = False
    """path=neural: answered by the original network."""
    explain: bool = False
    """explain=true: the answer says why, per segment."""
    low_priority: bool = False
    """priority=low: the first to be refused where much waits."""
    group: str = ""
    """group=...: the group whose errors this request counts for (spec.equivalence.fairness)."""


class InferRequest(NamedTuple):
    """A parsed request. A tuple: one is made per request, and a frozen dataclass takes three times as long."""

    rows: Rows
    """[rows, features] float32, C-contiguous."""
    options: Options = Options()
    identifier: str | None = None
    binary_output: bool = False
    """REST: outputs are wanted as bytes after the JSON."""
    outputs: tuple[str, ...] = ()
    """The outputs that are wanted, in this order; empty: all."""
    trace: TraceContext | None = None
    """Of its span, where it is traced."""


class Answer(NamedTuple):
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
    low = parameters.get("priority") == "low"
    return Options(neural_only=path == "neural", explain=explain, low_priority=low, group=group)


NO_OPTIONS: Final = Options()
MAX_GROUP: Final = 64


def check_tensor(name: object, datatype: object, shape: object, expected: PlanTensor, where: str = FIRST) -> int:
    """The number of rows of an input tensor, the one at `where` in the request.

    Raises DataError naming the field at fault.
    """
    if name != expected.name:
        raise DataError(Code.REQUEST_INVALID, f"{where}.name is {show(name)}; the model takes {expected.name!r}.")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise DataError(
            Code.REQUEST_INVALID,
            f"{where}.datatype is {show(datatype)}; send FP32, FP64 or an integer type.",
        )
    if datatype == "BOOL" and expected.datatype != "BOOL":
        raise DataError(Code.REQUEST_INVALID, f"{where}.datatype is BOOL; the model takes {expected.datatype}.")
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
            f"{where}.shape is {show(shape)}; it must be [{', '.join(['rows', *map(str, wanted)])}].",
        )
    rows: int = shape[0]
    return rows


def rows_from_values(data: object, rows: int, expected: PlanTensor, where: str = FIRST) -> Rows:
    """Rows from JSON numbers, flat or nested as the shape says.

    Raises DataError.
    """
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise DataError(Code.DATA_SHAPE, f"{where}.data is ragged; send it flat, or nested as shape says.") from error
    if values.dtype.kind not in ("fiub" if expected.datatype == "BOOL" else "fiu") or values.ndim == 0:
        raise DataError(Code.DATA_MALFORMED, f"{where}.data must be a list of numbers only.")
    shape = (rows, *expected.shape)
    if values.size != rows * expected.size or (values.ndim > 1 and values.shape != shape):
        raise DataError(
            Code.DATA_SHAPE,
            f"{where}.data has {values.size} values in shape {list(values.shape)}; {where}.shape {list(shape)} "
            f"needs {rows * expected.size}.",
        )
    return _float32(values, rows, expected)


def rows_from_bytes(
    raw: bytes | memoryview, datatype: str, rows: int, expected: PlanTensor, where: str = FIRST
) -> Rows:
    """Rows from a binary tensor: little-endian elements, row after row.

    Raises DataError where there are too many or too few bytes.
    """
    dtype = DATATYPES[datatype]
    needed = rows * expected.size * dtype.itemsize
    if len(raw) != needed:
        raise DataError(
            Code.DATA_SHAPE,
            f"{where} has {len(raw)} bytes of binary data; {rows} rows of {expected.size} {datatype} need {needed}.",
        )
    return _float32(np.frombuffer(raw, dtype=dtype), rows, expected)


def _float32(values: NDArray[np.generic], rows: int, expected: PlanTensor) -> Rows:
    """Beyond float32 is infinite, which every guard refuses; the pod tells numpy not to warn of it (pod.py)."""
    return np.ascontiguousarray(values.reshape(rows, expected.size), dtype=np.float32)


def wanted_outputs(names: Sequence[object], plan: Plan) -> tuple[str, ...]:
    """The outputs that a request names, each once; nothing means all.

    Raises DataError where there is no such output.
    """
    known = [each.name for each in plan.network_outputs]
    if any(name not in known for name in names) or len(set(names)) != len(names):
        if len(known) == 1:
            raise DataError(Code.REQUEST_INVALID, f"outputs may name one tensor only: {known[0]!r}.")
        raise DataError(Code.REQUEST_INVALID, f"outputs may name each of {', '.join(known)} once.")
    return tuple(str(name) for name in names)


def one_input(count: int, plan: Plan) -> None:
    """Raises DataError unless there is exactly one input tensor."""
    if count != 1:
        raise DataError(
            Code.REQUEST_INVALID,
            f"inputs must be a list with one tensor, named {plan.input.name!r}; see the metadata.",
        )


def input_places(names: Sequence[object], plan: Plan) -> list[int]:
    """Where in a request each input of a network with several is.

    Raises DataError unless each is there exactly once.
    """
    known = [each.name for each in plan.network_inputs]
    unknown = [name for name in names if name not in known]
    missing = [name for name in known if name not in names]
    if unknown or missing or len(names) != len(known):
        what = f"{show(unknown[0])} is none" if unknown else f"{missing[0]!r} is missing" if missing else "one is twice"
        raise DataError(Code.REQUEST_INVALID, f"inputs must be the tensors {', '.join(known)}, each once: {what}.")
    return [list(names).index(name) for name in known]


def joined(parts: Sequence[Rows], plan: Plan) -> Rows:
    """Rows of all inputs of a network with several, side by side.

    Raises DataError where they differ in their number of rows.
    """
    if len({len(part) for part in parts}) > 1:
        told = ", ".join(f"{each.name} has {len(part)}" for each, part in zip(plan.network_inputs, parts, strict=True))
        raise DataError(Code.DATA_SHAPE, f"all inputs need the same number of rows, but {told}.")
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def taken_apart(y: Rows, wanted: Sequence[str], plan: Plan) -> list[tuple[PlanTensor, Rows]]:
    """The wanted outputs (empty: all), each with its columns of rows [rows, outputs]."""
    found: dict[str, tuple[PlanTensor, Rows]] = {}
    start = 0
    for each in plan.network_outputs:
        found[each.name] = (each, y[:, start : start + each.size])
        start += each.size
    return [found[name] for name in wanted or found]


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
