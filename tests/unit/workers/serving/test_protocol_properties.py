"""Whatever a client sends, it is parsed or refused with one of our errors: nothing else ever leaves the parsers."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor
from ecompile_workers.serving import oip_grpc, rest
from ecompile_workers.serving.oip import inference_pb2 as pb
from ecompile_workers.serving.protocol import DATATYPES, InferRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHAPE = (2, 3)
FILE = PlanFile(path="model.onnx", digest=f"sha256:{'0' * 64}")
X, Y = PlanTensor(name="x", shape=SHAPE), PlanTensor(name="y", shape=(1,))
PLAN = Plan(
    namespace="n",
    model="m",
    life="l",
    source_digest=FILE.digest,
    source_format="onnx",
    input=X,
    output=Y,
    neural=FILE,
    graph=FILE,
    segments=(PlanSegment(index=0, name="s", compilable=True, input=X, output=Y, neural=FILE),),
)

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=6)
)
lists = st.lists(scalars, max_size=3)
anything = scalars | lists | st.lists(lists, max_size=2) | st.dictionaries(st.text(max_size=4), scalars, max_size=2)
sizes = st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(0, 99) | anything})
wanted = st.fixed_dictionaries({"name": st.just("y")}, optional={"parameters": anything})
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | anything,
        "datatype": st.sampled_from(sorted(DATATYPES)) | anything,
        "shape": st.just([1, 2, 3]) | st.just([2, 2, 3]) | anything,
        "data": st.lists(st.floats(width=32, allow_nan=False), min_size=6, max_size=6) | anything,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(0, 99) | anything})
        | anything,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(tensors, min_size=1, max_size=2) | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.just("y")}, optional={"parameters": anything}))
        | anything,
        "parameters": st.fixed_dictionaries({}, optional={"path": st.just("neural") | anything, "explain": anything})
        | anything,
        "id": anything,
    },
)


def check(request: InferRequest) -> None:
    """What inference relies on."""
    assert request.rows.dtype == np.float32 and request.rows.flags.c_contiguous
    assert request.rows.shape == (len(request.rows), 6) and len(request.rows) > 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents, binary=st.binary(max_size=100), announced=st.none() | st.integers(0, 400))
def test_rest_parser_gives_rows_or_a_sentence(document: Any, binary: bytes, announced: int | None) -> None:
    """Documents close to good ones, with bytes behind them."""
    text = orjson.dumps(document)
    length = len(text) if announced == 0 else announced
    try:
        with np.errstate(over="ignore"):
            check(rest.parse_request(text + binary, PLAN, json_bytes=length if binary else None))
    except DataError as error:
        assert 1000 <= error.code < 2000 and error.message.endswith(".")


@given(body=st.binary(max_size=200))
def test_rest_parser_survives_any_bytes(body: bytes) -> None:
    """Of which next to none is a request."""
    with pytest.raises(DataError):
        rest.parse_request(body, PLAN)


messages = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=st.sampled_from(["x", "y", ""]),
            datatype=st.sampled_from([*sorted(DATATYPES), "BYTES", ""]),
            shape=st.just([1, 2, 3]) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
            contents=st.none()
            | st.builds(
                pb.InferTensorContents,
                fp32_contents=st.lists(st.floats(width=32), max_size=7),
                int_contents=st.lists(st.integers(-9, 9), max_size=7),
            ),
        ),
        max_size=2,
    ),
    raw_input_contents=st.lists(st.binary(max_size=60), max_size=2),
    parameters=st.dictionaries(
        st.sampled_from(["path", "explain", "priority"]),
        st.builds(pb.InferParameter, string_param=st.text(max_size=6))
        | st.builds(pb.InferParameter, bool_param=st.booleans())
        | st.builds(pb.InferParameter),
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(message=messages)
def test_grpc_parser_gives_rows_or_a_sentence(message: pb.ModelInferRequest) -> None:
    """The same border for messages."""
    try:
        check(oip_grpc.parse_request(message, PLAN))
    except DataError as error:
        assert 1000 <= error.code < 2000 and error.message.endswith(".")
