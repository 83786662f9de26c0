"""REST requests in the form that nearly all have, parsed and answered with little work; anything else goes to rest.py.

The form: JSON with the one FP32 tensor of numbers that the model takes, at most an id, no other field. What is done
here gives what rest.py gives, value for value and byte for byte, which property tests check; errors are always its.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
from ecompile_crds.plan import Plan

from .bridge import Served
from .neural import Rows
from .protocol import Answer, InferRequest
from .rest import JSON, Headers, parse_request, render_answer

CONTENT_TYPE_JSON: Final = (b"content-type", JSON)
MAX_PREFIXES: Final = 256
"""Beginnings of answers kept: one per routing generation, path and number of rows."""
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY


class RestCodec:
    """`parse` and `render` for one model."""

    def __init__(self, plan: Plan, *, model: str, version: str) -> None:
        self._plan = plan
        self._model = model
        self._version = version
        self._has_usual = not plan.inputs and not plan.outputs
        self._input_name = plan.input.name
        self._row_shape = list(plan.input.shape)
        self._size = plan.input.size
        self._prefixes: dict[tuple[tuple[Served, ...], int, int], bytes] = {}

    def parse(self, body: bytes, *, json_bytes: int | None = None) -> InferRequest:
        """As rest.parse_request."""
        if json_bytes is None and self._has_usual:
            try:
                document = orjson.loads(body)
            except orjson.JSONDecodeError:
                return parse_request(body, self._plan)  # words the error
            rows = self._usual_rows(document)
            if rows is not None:
                return InferRequest(rows, identifier=document.get("id"))
        return parse_request(body, self._plan, json_bytes=json_bytes)

    def _usual_rows(self, document: Any) -> Rows | None:
        """Rows [rows, features] of a document in the usual form; None for any other."""
        try:
            if len(document) != 1 and (len(document) != 2 or type(document["id"]) is not str):
                return None
            (tensor,) = document["inputs"]
            if len(tensor) != 4 or tensor["name"] != self._input_name or tensor["datatype"] != "FP32":
                return None
            count, *row_shape = shape = tensor["shape"]
            data = tensor["data"]
            if row_shape != self._row_shape or type(shape) is not list or type(data) is not list:
                return None
            for extent in shape:
                if type(extent) is not int:
                    return None
            values = np.array(data)
        except (TypeError, KeyError, ValueError):
            return None
        if values.ndim != 1 or values.dtype.kind not in "fiu" or count < 1 or values.size != count * self._size:
            return None
        return values.astype(np.float32).reshape(count, self._size)

    def render(self, request: InferRequest, answer: Answer) -> tuple[Headers, bytes]:
        """As rest.render_answer."""
        if request.binary_output or answer.explanation or not self._has_usual:
            return render_answer(request, answer, model=self._model, version=self._version, plan=self._plan)
        y = answer.y
        outcome = answer.outcome
        key = (outcome.served, outcome.state.generation, y.shape[0])
        prefix = self._prefixes.get(key) or self._prefix(key, answer)
        data = orjson.dumps(np.ascontiguousarray(y).reshape(-1), option=_NUMPY)
        if request.identifier is None:
            return [CONTENT_TYPE_JSON], b"%b%b}]}" % (prefix, data)
        return [CONTENT_TYPE_JSON], b'%b%b}],"id":%b}' % (prefix, data, orjson.dumps(request.identifier))

    def _prefix(self, key: tuple[tuple[Served, ...], int, int], answer: Answer) -> bytes:
        """What comes before the numbers in an answer like this one."""
        empty = Answer(answer.outcome, answer.y[:, :0])
        request = InferRequest(answer.y[:, :0])
        _, body = render_answer(request, empty, model=self._model, version=self._version, plan=self._plan)
        prefix = body.removesuffix(b"[]}]}")
        if len(self._prefixes) >= MAX_PREFIXES:
            self._prefixes.clear()
        self._prefixes[key] = prefix
        return prefix
