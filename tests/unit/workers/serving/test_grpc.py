"""The gRPC server, called over a real channel in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.admission import Limits
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.oip import inference_pb2 as pb
from ecompile_workers.serving.oip_grpc import SERVICE_NAME, GrpcServer
from ecompile_workers.serving.service import Service

from .world import INPUTS, KEY, LIFE, MODEL, make_world, oracle, rows, table


class Client:
    """Calls methods by name."""

    def __init__(self, channel: grpc.aio.Channel, service: Service) -> None:
        self._channel = channel
        self.service = service

    async def call(self, method: str, request: Any, response: Any) -> Any:
        stub = self._channel.unary_unary(
            f"/{SERVICE_NAME}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await stub(request)

    async def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        answer: pb.ModelInferResponse = await self.call("ModelInfer", request, pb.ModelInferResponse)
        return answer


@pytest_asyncio.fixture(params=[None])
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    world = make_world(tmp_path)
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    pod.adopt(table(7, world.route(RouteMode.COMPILED)))
    service = Service(model=MODEL, version=LIFE, limits=request.param)
    service.start(pod.bridge)
    server = GrpcServer(service, port=0, host="127.0.0.1")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Client(channel, service)
    await server.stop(0)
    service.close()
    pod.close()


def make_request(x: Any, *, datatype: str = "FP32", typed: str = "", **changes: Any) -> pb.ModelInferRequest:
    """Rows `x` raw, or in the field `typed` of the contents."""
    message = pb.ModelInferRequest(model_name=MODEL, **changes)
    tensor = message.inputs.add(name="x", datatype=datatype, shape=list(x.shape))
    if typed:
        getattr(tensor.contents, typed).extend(x.ravel().tolist())
    else:
        message.raw_input_contents.append(x.tobytes())
    return message


def outputs(answer: pb.ModelInferResponse) -> Any:
    (output,) = answer.outputs
    assert (output.name, output.datatype) == ("h1", "FP32")
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(list(output.shape))


@pytest.mark.parametrize(
    ("datatype", "dtype", "typed"),
    [
        ("FP32", "<f4", ""),
        ("FP64", "<f8", ""),
        ("FP32", "<f4", "fp32_contents"),
        ("INT16", "<i2", "int_contents"),
        ("UINT64", "<u8", "uint64_contents"),
    ],
)
async def test_rows_are_answered_raw_or_typed(client: Client, datatype: str, dtype: str, typed: str) -> None:
    """With the path that served, as in REST."""
    x = np.abs(np.round(rows(3))).astype(dtype)
    answer = await client.infer(make_request(x, datatype=datatype, typed=typed, id="a"))
    np.testing.assert_allclose(outputs(answer), oracle(x.astype(np.float32)), atol=1e-5)
    assert (answer.model_name, answer.model_version, answer.id) == (MODEL, LIFE, "a")
    assert answer.parameters["path"].string_param == "compiled"
    assert answer.parameters["segments"].string_param == "0:compiled"
    assert answer.parameters["generation"].int64_param == 7


async def test_parameters_force_the_network_and_ask_why(client: Client) -> None:
    """path=neural and explain=true."""
    request = make_request(rows(1))
    request.parameters["path"].string_param = "neural"
    request.parameters["explain"].bool_param = True
    answer = await client.infer(request)
    assert answer.parameters["segments"].string_param == "0:neural:requested"
    assert '"confidence"' in answer.parameters["explanation"].string_param


async def test_health_and_metadata(client: Client) -> None:
    """What a client asks first."""
    assert (await client.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
    assert (await client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    ready = pb.ModelReadyRequest(name=MODEL, version=LIFE)
    assert (await client.call("ModelReady", ready, pb.ModelReadyResponse)).ready
    server = await client.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert server.name == "ecompile"
    model = await client.call("ModelMetadata", pb.ModelMetadataRequest(name=MODEL), pb.ModelMetadataResponse)
    assert (list(model.versions), list(model.inputs[0].shape)) == ([LIFE], [-1, INPUTS])
    client.service.drain()
    assert not (await client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready


BAD: list[tuple[str, pb.ModelInferRequest, grpc.StatusCode, str]] = [
    ("no input", pb.ModelInferRequest(model_name=MODEL), grpc.StatusCode.INVALID_ARGUMENT, "one tensor"),
    ("other model", pb.ModelInferRequest(model_name="m"), grpc.StatusCode.NOT_FOUND, "not served here"),
    ("other version", make_request(rows(1), model_version="9"), grpc.StatusCode.NOT_FOUND, "version"),
    ("other shape", make_request(rows(1)[:, :5]), grpc.StatusCode.INVALID_ARGUMENT, "[rows, 16]"),
    ("other bytes", make_request(rows(1), datatype="FP64"), grpc.StatusCode.INVALID_ARGUMENT, "need 128"),
    ("strings", make_request(rows(1), datatype="BYTES"), grpc.StatusCode.INVALID_ARGUMENT, "datatype"),
    (
        "contents of another type",
        make_request(rows(1), typed="fp64_contents"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "0 values",
    ),
    ("half floats typed", make_request(rows(1), datatype="FP16", typed="fp32_contents"),
     grpc.StatusCode.INVALID_ARGUMENT, "raw_input_contents"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "sentence"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
async def test_bad_request_has_a_status_a_code_and_a_sentence(
    client: Client, request_: pb.ModelInferRequest, status: grpc.StatusCode, sentence: str
) -> None:
    """The same taxonomy as in REST."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.infer(request_)
    assert caught.value.code() is status
    assert sentence in str(caught.value.details())
    told = dict(caught.value.trailing_metadata())  # type: ignore[arg-type]  # aio's Metadata is iterable in pairs
    assert told["ecompile-retryable"] == "false" and told["ecompile-code"].isdigit()


@pytest.mark.parametrize("client", [Limits(requests=0)], indirect=True)
async def test_overload_is_resource_exhausted_with_the_time_to_come_back(client: Client) -> None:
    """The pushback that gRPC's own retry policy obeys, and our field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.infer(make_request(rows(1)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = dict(caught.value.trailing_metadata())  # type: ignore[arg-type]  # aio's Metadata is iterable in pairs
    assert told["ecompile-retryable"] == "true"
    assert float(told["ecompile-retry-after-seconds"]) > 0 and int(told["grpc-retry-pushback-ms"]) > 0


async def test_large_message_is_refused(client: Client) -> None:
    """Before it is parsed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.infer(make_request(np.zeros((300_000, INPUTS), dtype=np.float32)))
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"not protobuf"])
async def test_bytes_that_are_no_message_are_a_bad_request(client: Client, content: bytes) -> None:
    """Not UNKNOWN with the name of a class of ours."""
    stub = client._channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
    with pytest.raises(grpc.RpcError) as raised:
        await stub(content)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "[1009] the request is not a ModelInferRequest message."


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_answer_is_the_message_that_it_stands_for(client: Client, count: int) -> None:
    """Put together from bytes, the first time and again; with an id, as a whole."""
    for identifier in ("", "", "7"):
        answer = await client.infer(make_request(rows(count), id=identifier))
        assert (answer.model_name, answer.model_version, answer.id) == (MODEL, LIFE, identifier)
        assert answer.parameters["segments"].string_param == "0:compiled"
        assert answer.parameters["generation"].int64_param == 7
        np.testing.assert_allclose(outputs(answer), oracle(rows(count)), atol=1e-5)
        assert len(answer.raw_output_contents) == 1
