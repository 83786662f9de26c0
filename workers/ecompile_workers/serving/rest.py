"""Open Inference Protocol v2 over REST: from a request's bytes to rows, from rows to an answer's bytes. Pure.

With the binary tensor extension, the body is JSON followed by the tensors' bytes, and the header
`Inference-Header-Content-Length` tells the length of the JSON.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import orjson
from ecompile_crds.errors import Code, DataError, EcompileError
from ecompile_crds.plan import Plan, PlanTensor

from .neural import Rows
from .protocol import (
    NO_OPTIONS,
    PLATFORM,
    Answer,
    InferRequest,
    check_outputs,
    check_tensor,
    one_input,
    parse_options,
    rows_from_bytes,
    rows_from_values,
)

HEADER_LENGTH: Final = b"inference-header-content-length"
JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"

Headers = list[tuple[bytes, bytes]]


def parse_request(body: bytes, plan: Plan, *, json_bytes: int | None = None) -> InferRequest:
    """`json_bytes` is the length of the JSON where binary tensors follow it.

    Raises DataError naming the field at fault.
    """
    text, binary = body, memoryview(b"")
    if json_bytes is not None:
        if json_bytes > len(body):
            raise DataError(
                Code.REQUEST_INVALID,
                f"Inference-Header-Content-Length is {json_bytes}, but the body has {len(body)} bytes.",
            )
        text, binary = body[:json_bytes], memoryview(body)[json_bytes:]
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(Code.REQUEST_INVALID, f"the request body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise DataError(Code.REQUEST_INVALID, "the request body must be a JSON object with the field inputs.")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        inputs = []
    one_input(len(inputs), plan)
    parameters = document.get("parameters")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise DataError(Code.REQUEST_INVALID, "id must be a string.")
    return InferRequest(
        rows=_rows(inputs[0], binary, plan.input),
        options=parse_options(parameters) if parameters is not None else NO_OPTIONS,
        identifier=identifier,
        binary_output=_binary_output(document.get("outputs"), parameters, plan.output),
    )


def _rows(tensor: dict[str, Any], binary: memoryview, expected: PlanTensor) -> Rows:
    datatype = tensor.get("datatype")
    rows = check_tensor(tensor.get("name"), datatype, tensor.get("shape"), expected)
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if "data" in tensor:
            raise DataError(Code.REQUEST_INVALID, "inputs[0] has both data and binary_data_size; send one of them.")
        if size != len(binary):
            raise DataError(
                Code.REQUEST_INVALID,
                f"inputs[0].parameters.binary_data_size is {str(size)[:40]}, but {len(binary)} bytes follow the JSON.",
            )
        return rows_from_bytes(binary, str(datatype), rows, expected)
    if len(binary):
        raise DataError(
            Code.REQUEST_INVALID,
            f"{len(binary)} bytes follow the JSON, but inputs[0].parameters.binary_data_size is not set.",
        )
    if "data" not in tensor:
        raise DataError(Code.REQUEST_INVALID, "inputs[0].data is missing; send JSON numbers or a binary tensor.")
    return rows_from_values(tensor["data"], rows, expected)


def _binary_output(outputs: object, parameters: object, expected: PlanTensor) -> bool:
    default = _flag(parameters, "binary_data_output")
    if outputs is None or outputs == []:
        return default
    listed = [each if isinstance(each, dict) else {} for each in outputs] if isinstance(outputs, list) else [{}]
    check_outputs([each.get("name") for each in listed], expected)
    wanted = listed[0].get("parameters")
    if isinstance(wanted, dict) and wanted.get("classification"):
        raise DataError(Code.REQUEST_INVALID, "outputs[0].parameters.classification is not supported; leave it out.")
    return _flag(wanted, "binary_data") if isinstance(wanted, dict) and "binary_data" in wanted else default


def _flag(parameters: object, name: str) -> bool:
    value = parameters.get(name, False) if isinstance(parameters, dict) else False
    if not isinstance(value, bool):
        raise DataError(Code.REQUEST_INVALID, f"the parameter {name} must be true or false.")
    return value


def render_answer(
    request: InferRequest, answer: Answer, *, model: str, version: str, output: PlanTensor
) -> tuple[Headers, bytes]:
    """Headers and body of the response."""
    y = answer.y
    tensor: dict[str, Any] = {"name": output.name, "shape": [y.shape[0], *output.shape], "datatype": "FP32"}
    document: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "parameters": answer.parameters(),
        "outputs": [tensor],
    }
    if request.identifier is not None:
        document["id"] = request.identifier
    if not request.binary_output:
        tensor["data"] = np.ascontiguousarray(y).reshape(-1)
        return [(b"content-type", JSON)], orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    raw = y.tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = orjson.dumps(document)
    return [(b"content-type", BINARY), (HEADER_LENGTH, b"%d" % len(head))], head + raw


def render_error(error: EcompileError) -> tuple[Headers, bytes]:
    """{"error": sentence, "code": 1003, "retryable": false}; Retry-After in whole seconds where it is known."""
    headers = [(b"content-type", JSON)]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_seconds))))
    return headers, orjson.dumps(error.answer())


def render_metadata(plan: Plan, *, model: str, version: str) -> bytes:
    """Model metadata: one input and one output, the batch dimension as -1."""

    def tensor(each: PlanTensor) -> dict[str, Any]:
        return {"name": each.name, "datatype": "FP32", "shape": [-1, *each.shape]}

    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": PLATFORM,
            "inputs": [tensor(plan.input)],
            "outputs": [tensor(plan.output)],
        }
    )
