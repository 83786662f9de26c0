"""Several inputs and outputs over REST and gRPC: by name in any order, as JSON and as bytes; each fault is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor
from ecompile_workers.serving import oip_grpc, rest
from ecompile_workers.serving.bridge import Outcome
from ecompile_workers.serving.oip import inference_pb2 as pb
from ecompile_workers.serving.protocol import Answer, InferRequest
from ecompile_workers.serving.usual import RestCodec

FILE = PlanFile(path="model.onnx", digest=f"sha256:{'0' * 64}")
WORDS = PlanTensor(name="words", shape=(2,), datatype="INT64")
MASK = PlanTensor(name="mask", shape=(2,), datatype="BOOL")
NUMBERS = PlanTensor(name="numbers", shape=())
CLASS, FOUND = PlanTensor(name="class", shape=(2,)), PlanTensor(name="found", shape=(1, 2))
WHOLE, ALL = PlanTensor(name="words,mask,numbers", shape=(5,)), PlanTensor(name="class,found", shape=(4,))
PLAN = Plan(
    namespace="n",
    model="m",
    life="l",
    source_digest=FILE.digest,
    source_format="onnx",
    input=WHOLE,
    output=ALL,
    inputs=(WORDS, MASK, NUMBERS),
    outputs=(CLASS, FOUND),
    neural=FILE,
    graph=FILE,
    segments=(PlanSegment(index=0, name="s", compilable=True, input=WHOLE, output=ALL, neural=FILE),),
)
ROWS = np.array([[7, 8, 1, 0, 0.5], [9, 1, 1, 1, -2]], np.float32)
Y = np.arange(8, dtype=np.float32).reshape(2, 4)


def tensors() -> dict[str, dict[str, Any]]:
    return {
        "numbers": {"name": "numbers", "shape": [2], "datatype": "FP32", "data": [0.5, -2]},
        "words": {"name": "words", "shape": [2, 2], "datatype": "INT64", "data": [[7, 8], [9, 1]]},
        "mask": {"name": "mask", "shape": [2, 2], "datatype": "BOOL", "data": [True, False, True, True]},
    }


def parse(**changed: dict[str, Any]) -> InferRequest:
    found = tensors()
    for name, change in changed.items():
        found[name] |= change
    return rest.parse_request(orjson.dumps({"inputs": list(found.values())}), PLAN)


def answer() -> Answer:
    class State:
        generation = 3

    return Answer(Outcome(y=Y, served=(), state=State()), Y)  # type: ignore[call-arg,arg-type]  # what is rendered


def test_inputs_in_any_order_are_one_row() -> None:
    np.testing.assert_array_equal(parse().rows, ROWS)
    codec = RestCodec(PLAN, model="m", version="l")
    np.testing.assert_array_equal(codec.parse(orjson.dumps({"inputs": list(tensors().values())})).rows, ROWS)


def test_binary_tensors_follow_in_the_order_of_the_request() -> None:
    found = tensors()
    raw = [np.array([0.5, -2], "<f4").tobytes(), np.array([[7, 8], [9, 1]], "<i8").tobytes()]
    for name, content in zip(("numbers", "words"), raw, strict=True):
        del found[name]["data"]
        found[name]["parameters"] = {"binary_data_size": len(content)}
    head = orjson.dumps({"inputs": list(found.values())})
    request = rest.parse_request(head + b"".join(raw), PLAN, json_bytes=len(head))
    np.testing.assert_array_equal(request.rows, ROWS)
    with pytest.raises(DataError, match=r"41 bytes follow the JSON, but .* add up to 40"):
        rest.parse_request(head + b"".join(raw) + b"x", PLAN, json_bytes=len(head))
    with pytest.raises(DataError, match=r"inputs\[1\].parameters.binary_data_size is 32, but 31 bytes"):
        rest.parse_request(head + b"".join(raw)[:-1], PLAN, json_bytes=len(head))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"words": {"name": "other"}}, "inputs must be the tensors words, mask, numbers, each once: 'other' is none"),
        ({"words": {"name": "mask"}}, "'words' is missing"),
        ({"words": {"shape": [2, 3]}}, r"inputs\[1\].shape is \[2, 3\]; it must be \[rows, 2\]"),
        ({"words": {"datatype": "BOOL"}}, r"inputs\[1\].datatype is BOOL; the model takes INT64"),
        ({"mask": {"data": [True, False]}}, r"inputs\[2\].data has 2 values"),
        (
            {"numbers": {"shape": [3], "data": [1, 2, 3]}},
            "same number of rows, but words has 2, mask has 2, numbers has 3",
        ),
    ],
)
def test_faults_are_named(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        parse(**changed)


def test_outputs_are_taken_apart_and_picked() -> None:
    _, body = rest.render_answer(parse(), answer(), model="m", version="l", plan=PLAN)
    told = orjson.loads(body)["outputs"]
    assert [(t["name"], t["shape"], t["data"]) for t in told] == [
        ("class", [2, 2], [0, 1, 4, 5]),
        ("found", [2, 1, 2], [2, 3, 6, 7]),
    ]
    document = {"inputs": list(tensors().values()), "outputs": [{"name": "found"}]}
    picked = rest.parse_request(orjson.dumps(document), PLAN)
    headers, body = rest.render_answer(picked, answer(), model="m", version="l", plan=PLAN)
    assert [t["name"] for t in orjson.loads(body)["outputs"]] == ["found"]
    document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in ("found", "class")]
    request = rest.parse_request(orjson.dumps(document), PLAN)
    headers, body = rest.render_answer(request, answer(), model="m", version="l", plan=PLAN)
    raw = body[int(dict(headers)[rest.HEADER_LENGTH]) :]
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), [2, 3, 6, 7, 0, 1, 4, 5])
    document["outputs"] = [{"name": "other"}]
    with pytest.raises(DataError, match="outputs may name each of class, found once"):
        rest.parse_request(orjson.dumps(document), PLAN)


def test_metadata_tells_the_types() -> None:
    told = orjson.loads(rest.render_metadata(PLAN, model="m", version="l"))
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["inputs"]] == [
        ("words", "INT64", [-1, 2]),
        ("mask", "BOOL", [-1, 2]),
        ("numbers", "FP32", [-1]),
    ]
    assert [t["name"] for t in told["outputs"]] == ["class", "found"]


@pytest.mark.parametrize("raw", [False, True])
def test_grpc(raw: bool) -> None:
    message = pb.ModelInferRequest(model_name="m")
    contents = {
        "numbers": ("FP32", [2], "fp32_contents", np.array([0.5, -2], "<f4")),
        "words": ("INT64", [2, 2], "int64_contents", np.array([7, 8, 9, 1], "<i8")),
        "mask": ("BOOL", [2, 2], "bool_contents", np.array([1, 0, 1, 1], "?")),
    }
    for name, (datatype, shape, field, values) in contents.items():
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            message.raw_input_contents.append(values.tobytes())
        else:
            getattr(tensor.contents, field).extend(values.tolist())
    request = oip_grpc.parse_request(message, PLAN)
    np.testing.assert_array_equal(request.rows, ROWS)
    codec = oip_grpc.GrpcCodec(PLAN, model="m", version="l")
    for _ in range(2):
        response = pb.ModelInferResponse.FromString(codec.render(request, answer()))
        assert [(t.name, list(t.shape)) for t in response.outputs] == [("class", [2, 2]), ("found", [2, 1, 2])]
        np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[1], "<f4"), [2, 3, 6, 7])
    del message.inputs[0]
    with pytest.raises(DataError, match="'numbers' is missing"):
        oip_grpc.parse_request(message, PLAN)
