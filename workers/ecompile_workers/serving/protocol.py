"""Open Inference Protocol v2, JSON tensors: from a request's bytes to rows, from rows to an answer's bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from ecompile_crds.errors import Code, DataError, EcompileError, ModelError
from ecompile_crds.plan import Plan, PlanTensor

from .bridge import Outcome
from .neural import Rows

MAX_BODY_BYTES: Final = 16 << 20
NUMERIC: Final = frozenset(
    {"FP32", "FP64", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
)
"""Datatypes accepted; all are computed in FP32, as the network is."""
STATUS: Final = {Code.REQUEST_TOO_LARGE: 413, Code.MODEL_NOT_FOUND: 404, Code.OVERLOADED: 503}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request."""

    rows: Rows
    """[rows, features] float32, C-contiguous."""
    neural_only: bool
    identifier: str | None


def http_status(error: EcompileError) -> int:
    """400 where the request is at fault, 500 where we are, and the special cases."""
    known = STATUS.get(error.code)
    return known if known is not None else 400 if error.code < 2000 else 500


def parse_request(body: bytes, plan: Plan) -> InferRequest:
    """Raises DataError naming the field at fault."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(Code.REQUEST_INVALID, f"the request body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise DataError(Code.REQUEST_INVALID, "the request body must be a JSON object with the field inputs.")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise DataError(
            Code.REQUEST_INVALID,
            f"inputs must be a list with one tensor, named {plan.input.name!r}; see the metadata.",
        )
    _check_outputs(document.get("outputs"), plan)
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise DataError(Code.REQUEST_INVALID, "id must be a string.")
    return InferRequest(_rows(inputs[0], plan.input), _neural_only(document.get("parameters")), identifier)


def _check_outputs(outputs: object, plan: Plan) -> None:
    if outputs is None or outputs == []:
        return
    names = (
        [each.get("name") if isinstance(each, dict) else None for each in outputs] if isinstance(outputs, list) else []
    )
    if names != [plan.output.name]:
        raise DataError(Code.REQUEST_INVALID, f"outputs may name one tensor only: {plan.output.name!r}.")


def _neural_only(parameters: object) -> bool:
    if parameters is None:
        return False
    path = parameters.get("path") if isinstance(parameters, dict) else parameters
    if not isinstance(parameters, dict) or path not in (None, "neural"):
        raise DataError(Code.REQUEST_INVALID, "parameters.path may be 'neural' (the original network), or left out.")
    return path == "neural"


def _rows(tensor: dict[str, Any], expected: PlanTensor) -> Rows:
    name, shape, datatype = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
    if name != expected.name:
        raise DataError(Code.REQUEST_INVALID, f"inputs[0].name is {_show(name)}; the model takes {expected.name!r}.")
    if not isinstance(datatype, str) or datatype not in NUMERIC:
        raise DataError(
            Code.REQUEST_INVALID,
            f"inputs[0].datatype is {_show(datatype)}; send FP32, FP64 or an integer type.",
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
            f"inputs[0].shape is {_show(shape)}; it must be [rows, {', '.join(map(str, wanted))}].",
        )
    if "data" not in tensor:
        raise DataError(Code.REQUEST_INVALID, "inputs[0].data is missing; binary tensors are not supported: send JSON.")
    try:
        values = np.asarray(tensor["data"])
    except ValueError as error:
        raise DataError(Code.DATA_SHAPE, "inputs[0].data is ragged; send it flat, or nested as shape says.") from error
    if values.dtype.kind not in "fiu" or values.ndim == 0:
        raise DataError(Code.DATA_MALFORMED, "inputs[0].data must be a list of numbers only.")
    if values.size != shape[0] * expected.size or (values.ndim > 1 and list(values.shape) != shape):
        raise DataError(
            Code.DATA_SHAPE,
            f"inputs[0].data has {values.size} values in shape {list(values.shape)}; inputs[0].shape {shape} needs "
            f"{shape[0] * expected.size}.",
        )
    with np.errstate(over="ignore"):  # beyond float32 is infinite: every guard refuses that
        return values.reshape(shape[0], expected.size).astype(np.float32)


def render_answer(request: InferRequest, outcome: Outcome, *, model: str, version: str, output: PlanTensor) -> bytes:
    """The response body; `parameters` say which path served each segment and why."""
    answer: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "parameters": {
            "path": outcome.path,
            "segments": ",".join([f"{index}:{how.value}" for index, how in enumerate(outcome.served)]),
            "generation": outcome.state.generation,
        },
        "outputs": [
            {
                "name": output.name,
                "shape": [outcome.y.shape[0], *output.shape],
                "datatype": "FP32",
                "data": np.ascontiguousarray(outcome.y).reshape(-1),
            }
        ],
    }
    if request.identifier is not None:
        answer["id"] = request.identifier
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def render_error(error: EcompileError) -> bytes:
    """{"error": sentence, "code": 1003, "retryable": false}."""
    body: dict[str, Any] = {"error": error.message, "code": int(error.code), "retryable": error.retryable}
    if error.retry_after_seconds is not None:
        body["retryAfterSeconds"] = error.retry_after_seconds
    return orjson.dumps(body)


def render_metadata(plan: Plan, *, model: str, version: str) -> bytes:
    """Model metadata: one input and one output, the batch dimension as -1."""

    def tensor(each: PlanTensor) -> dict[str, Any]:
        return {"name": each.name, "datatype": "FP32", "shape": [-1, *each.shape]}

    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": "ecompile",
            "inputs": [tensor(plan.input)],
            "outputs": [tensor(plan.output)],
        }
    )


def unknown_model(name: str, version: str | None, *, model: str, served_version: str) -> ModelError:
    """The error for a model or version that is not served here."""
    if name != model:
        return ModelError(Code.MODEL_NOT_FOUND, f"model {_show(name)} is not served here; this pod serves {model!r}.")
    return ModelError(
        Code.MODEL_NOT_FOUND,
        f"version {_show(version)} of {model!r} is not served; the version is {served_version!r}.",
    )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
