"""Requests in the usual form get what rest.py gives, value for value and byte for byte."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.serving import rest
from ecompile_workers.serving.bridge import Outcome, RouteState, Served
from ecompile_workers.serving.protocol import Answer, InferRequest
from ecompile_workers.serving.usual import MAX_PREFIXES, RestCodec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .test_protocol_properties import PLAN, documents

CODEC = RestCodec(PLAN, model="m", version="l")
usual = st.fixed_dictionaries(
    {
        "inputs": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["x", "y", 1]),
                "datatype": st.sampled_from(["FP32", "FP64", "INT8"]),
                "shape": st.sampled_from(
                    [[1, 2, 3], [True, 2, 3], [2, 2, 3], [1.0, 2, 3], [1, 2], [], [0, 2, 3], "123"]
                ),
                "data": st.lists(st.floats(width=64, allow_nan=False) | st.integers() | st.booleans(), max_size=12)
                | st.sampled_from(["123456", {}, None, [[1, 2, 3], [4, 5, 6]], [[[1, 2, 3], [4, 5, 6]]], ["1"] * 6]),
            }
        ).map(lambda tensor: [tensor])
    },
    optional={"id": st.sampled_from(["a", 'quo"te', 7, None]), "more": st.integers()},
)


def parsed(parse: Any, body: bytes) -> object:
    """The request's fields, or the error's sentence."""
    try:
        with np.errstate(over="ignore"):
            request: InferRequest = parse(body)
    except DataError as error:
        return error.message
    assert request.rows.dtype == np.float32 and request.rows.flags.c_contiguous
    return request.rows.shape, request.rows.tobytes(), request.options, request.identifier, request.binary_output


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=usual | documents)
def test_parsed_as_rest_does(document: Any) -> None:
    """Good or bad."""
    try:
        body = orjson.dumps(document)
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        return
    assert parsed(CODEC.parse, body) == parsed(lambda each: rest.parse_request(each, PLAN), body)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"7", b'"a"', b'{"inputs":7}', b'{"inputs":"a"}'])
def test_what_is_no_request_is_told_as_rest_does(body: bytes) -> None:
    """The sentence is rest.py's."""
    assert parsed(CODEC.parse, body) == parsed(lambda each: rest.parse_request(each, PLAN), body)


def answer(y: Any, *, generation: int = 1, explanation: str = "") -> Answer:
    state = cast(RouteState, SimpleNamespace(generation=generation))
    rows = np.asarray(y, dtype=np.float32).reshape(-1, 1)
    return Answer(Outcome(state, rows, (Served.COMPILED, Served.CANARY)), rows, explanation)


@pytest.mark.parametrize("identifier", [None, "", "a", 'quo"te'])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("y", [[0.1], [1e-30, 3.0, -0.0], [float("nan"), float("inf")]])
@pytest.mark.parametrize("explanation", ["", "[]"])
def test_rendered_as_rest_does(identifier: str | None, binary: bool, y: list[float], explanation: str) -> None:
    """The first time, and again."""
    codec = RestCodec(PLAN, model="m", version="l")
    request = InferRequest(np.zeros((len(y), 6), dtype=np.float32), identifier=identifier, binary_output=binary)
    told = answer(y, explanation=explanation)
    expected = rest.render_answer(request, told, model="m", version="l", plan=PLAN)
    for _ in range(2):
        assert codec.render(request, told) == expected


def test_beginnings_of_answers_do_not_pile_up() -> None:
    """Each routing generation makes new ones."""
    codec = RestCodec(PLAN, model="m", version="l")
    request = InferRequest(np.zeros((1, 6), dtype=np.float32))
    for generation in range(2 * MAX_PREFIXES):
        _, body = codec.render(request, answer([1.0], generation=generation))
        assert orjson.loads(body)["parameters"]["generation"] == generation
    assert len(codec._prefixes) <= MAX_PREFIXES
