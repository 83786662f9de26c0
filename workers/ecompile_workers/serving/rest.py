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
    FIRST,
    NO_OPTIONS,
    PLATFORM,
    Answer,
    InferRequest,
    check_tensor,
    input_places,
    joined,
    one_input,
    parse_options,
    rows_from_bytes,
    rows_from_values,
    taken_apart,
    wanted_outputs,
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
    inputs: Any = document.get("inputs")
    legal = isinstance(inputs, list) and all(isinstance(each, dict) for each in inputs)
    if not plan.inputs or not legal:
        one_input(len(inputs) if legal else 0, plan)
    parameters = document.get("parameters")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise DataError(Code.REQUEST_INVALID, "id must be a string.")
    wanted, binary_output = _outputs(document.get("outputs"), parameters, plan)
    return InferRequest(
        rows=_several(inputs, binary, plan) if plan.inputs else _rows(inputs[0], binary, plan.input),
        options=parse_options(parameters) if parameters is not None else NO_OPTIONS,
        identifier=identifier,
        binary_output=binary_output,
        outputs=wanted,
    )


def _several(tensors: list[dict[str, Any]], binary: memoryview, plan: Plan) -> Rows:
    """Of a network with several inputs; binary tensors follow the JSON in the order of the request."""
    places = input_places([each.get("name") for each in tensors], plan)
    chunks, start = [], 0
    for tensor in tensors:
        size = _binary_size(tensor)
        stop = start + size if type(size) is int and size >= 0 else start
        chunks.append(binary[start:stop])
        start = stop
    if start < len(binary):
        raise DataError(
            Code.REQUEST_INVALID,
            f"{len(binary)} bytes follow the JSON, but inputs[].parameters.binary_data_size add up to {start}.",
        )
    parts = [
        _rows(tensors[place], chunks[place], expected, f"inputs[{place}]")
        for place, expected in zip(places, plan.network_inputs, strict=True)
    ]
    return joined(parts, plan)


def _binary_size(tensor: dict[str, Any]) -> Any:
    parameters = tensor.get("parameters")
    return parameters.get("binary_data_size") if isinstance(parameters, dict) else None


def _rows(tensor: dict[str, Any], binary: memoryview, expected: PlanTensor, where: str = FIRST) -> Rows:
    datatype = tensor.get("datatype")
    rows = check_tensor(tensor.get("name"), datatype, tensor.get("shape"), expected, where)
    size = _binary_size(tensor)
    if size is not None:
        if "data" in tensor:
            raise DataError(Code.REQUEST_INVALID, f"{where} has both data and binary_data_size; send one of them.")
        if size != len(binary):
            raise DataError(
                Code.REQUEST_INVALID,
                f"{where}.parameters.binary_data_size is {str(size)[:40]}, but {len(binary)} bytes follow the JSON.",
            )
        return rows_from_bytes(binary, str(datatype), rows, expected, where)
    if len(binary):
        raise DataError(
            Code.REQUEST_INVALID,
            f"{len(binary)} bytes follow the JSON, but {where}.parameters.binary_data_size is not set.",
        )
    if "data" not in tensor:
        raise DataError(Code.REQUEST_INVALID, f"{where}.data is missing; send JSON numbers or a binary tensor.")
    return rows_from_values(tensor["data"], rows, expected, where)


def _outputs(outputs: object, parameters: object, plan: Plan) -> tuple[tuple[str, ...], bool]:
    """Which outputs are wanted, and whether as bytes."""
    default = _flag(parameters, "binary_data_output")
    if outputs is None or outputs == []:
        return (), default
    listed = [each if isinstance(each, dict) else {} for each in outputs] if isinstance(outputs, list) else [{}]
    wanted = wanted_outputs([each.get("name") for each in listed], plan)
    flags = {_binary_flag(each.get("parameters"), position, default) for position, each in enumerate(listed)}
    if len(flags) > 1:
        raise DataError(Code.REQUEST_INVALID, "outputs: ask for all of them as binary_data, or for none.")
    return wanted, flags.pop()


def _binary_flag(parameters: object, position: int, default: bool) -> bool:
    if not isinstance(parameters, dict):
        return default
    if parameters.get("classification"):
        raise DataError(
            Code.REQUEST_INVALID, f"outputs[{position}].parameters.classification is not supported; leave it out."
        )
    return _flag(parameters, "binary_data") if "binary_data" in parameters else default


def _flag(parameters: object, name: str) -> bool:
    value = parameters.get(name, False) if isinstance(parameters, dict) else False
    if not isinstance(value, bool):
        raise DataError(Code.REQUEST_INVALID, f"the parameter {name} must be true or false.")
    return value


def render_answer(
    request: InferRequest, answer: Answer, *, model: str, version: str, plan: Plan
) -> tuple[Headers, bytes]:
    """Headers and body of the response."""
    count = answer.y.shape[0]
    parts = taken_apart(answer.y, request.outputs, plan)
    tensors: list[dict[str, Any]] = [
        {"name": each.name, "shape": [count, *each.shape], "datatype": "FP32"} for each, _ in parts
    ]
    document: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "parameters": answer.parameters(),
        "outputs": tensors,
    }
    if request.identifier is not None:
        document["id"] = request.identifier
    if not request.binary_output:
        for tensor, (_, y) in zip(tensors, parts, strict=True):
            tensor["data"] = np.ascontiguousarray(y).reshape(-1)
        return [(b"content-type", JSON)], orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    raw = [y.tobytes() for _, y in parts]
    for tensor, content in zip(tensors, raw, strict=True):
        tensor["parameters"] = {"binary_data_size": len(content)}
    head = orjson.dumps(document)
    return [(b"content-type", BINARY), (HEADER_LENGTH, b"%d" % len(head))], b"".join([head, *raw])


def render_error(error: EcompileError) -> tuple[Headers, bytes]:
    """{"error": sentence, "code": 1003, "retryable": false}; Retry-After in whole seconds where it is known."""
    headers = [(b"content-type", JSON)]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_seconds))))
    return headers, orjson.dumps(error.answer())


def render_metadata(plan: Plan, *, model: str, version: str) -> bytes:
    """Model metadata, the batch dimension as -1."""

    def tensor(each: PlanTensor) -> dict[str, Any]:
        return {"name": each.name, "datatype": each.datatype, "shape": [-1, *each.shape]}

    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": PLATFORM,
            "inputs": [tensor(each) for each in plan.network_inputs],
            "outputs": [tensor(each) for each in plan.network_outputs],
        }
    )
