"""Open Inference Protocol v2 over gRPC: messages to rows, answers to messages, and the server.

Not here: what answers; see service.py. The methods are registered under the protocol's own service name, so that any
client finds them (KServe's, Triton's).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

import grpc
import numpy as np
from ecompile_crds.errors import Code, DataError, EcompileError
from ecompile_crds.plan import Plan, PlanTensor
from google.protobuf.message import DecodeError, Message

from .bridge import Served
from .neural import Rows
from .oip import inference_pb2 as pb
from .protocol import (
    EXTENSIONS,
    MAX_BODY_BYTES,
    NO_OPTIONS,
    PLATFORM,
    SERVER_NAME,
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
    too_large,
    unknown_model,
    wanted_outputs,
)
from .service import Service
from .usual import MAX_PREFIXES

SERVICE_NAME: Final = "inference.GRPCInferenceService"
TYPED_CONTENTS: Final[Mapping[str, str]] = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}
"""Field of InferTensorContents per datatype; FP16 has none and must be sent raw."""

RAW_OUTPUT_TAG: Final = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""Field raw_output_contents, with a length before its bytes."""

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]


def parse_request(message: pb.ModelInferRequest, plan: Plan) -> InferRequest:
    """Raises DataError naming the field at fault."""
    if plan.inputs:
        places = input_places([each.name for each in message.inputs], plan)
    else:
        one_input(len(message.inputs), plan)
        places = [0]
    parts = [_rows(message, place, each) for place, each in zip(places, plan.network_inputs, strict=True)]
    parameters = message.parameters
    return InferRequest(
        rows=parts[0] if len(parts) == 1 else joined(parts, plan),
        options=parse_options({name: _value(parameters[name]) for name in parameters}) if parameters else NO_OPTIONS,
        identifier=message.id or None,
        outputs=wanted_outputs([each.name for each in message.outputs], plan) if message.outputs else (),
    )


def _rows(message: pb.ModelInferRequest, place: int, expected: PlanTensor) -> Rows:
    tensor, raw, where = message.inputs[place], message.raw_input_contents, f"inputs[{place}]"
    rows = check_tensor(tensor.name, tensor.datatype, list(tensor.shape), expected, where)
    if raw:
        if len(raw) != len(message.inputs) or tensor.HasField("contents"):
            count = "one input; send one" if len(message.inputs) == 1 else "other inputs; send one each"
            raise DataError(
                Code.REQUEST_INVALID,
                f"raw_input_contents has {len(raw)} entries for {count}, and then no contents.",
            )
        return rows_from_bytes(raw[place], tensor.datatype, rows, expected, where)
    field = TYPED_CONTENTS.get(tensor.datatype)
    if field is None:
        raise DataError(Code.REQUEST_INVALID, f"{tensor.datatype} has no typed contents; send raw_input_contents.")
    return rows_from_values(np.asarray(getattr(tensor.contents, field)), rows, expected, where)


def _value(parameter: pb.InferParameter) -> object:
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen is not None else None


def render_answer(
    request: InferRequest, answer: Answer, *, model: str, version: str, plan: Plan
) -> pb.ModelInferResponse:
    """The response; outputs are raw, little-endian float32."""
    parts = taken_apart(answer.y, request.outputs, plan)
    response = pb.ModelInferResponse(
        model_name=model,
        model_version=version,
        id=request.identifier or "",
        raw_output_contents=[y.tobytes() for _, y in parts],
    )
    for name, value in answer.parameters().items():
        if isinstance(value, int):
            response.parameters[name].int64_param = value
        else:
            response.parameters[name].string_param = value
    for each, y in parts:
        response.outputs.add(name=each.name, datatype="FP32", shape=[y.shape[0], *each.shape])
    return response


class GrpcCodec:
    """Messages to requests and answers to bytes. What answers of one routing generation have in common is put together
    once: the bytes of a message are those of its fields, one after the other."""

    def __init__(self, plan: Plan, *, model: str, version: str) -> None:
        self._plan = plan
        self._model = model
        self._version = version
        self._prefixes: dict[tuple[tuple[Served, ...], int, int], bytes] = {}

    def parse(self, message: pb.ModelInferRequest) -> InferRequest:
        """As parse_request."""
        return parse_request(message, self._plan)

    def render(self, request: InferRequest, answer: Answer) -> bytes:
        """The message of render_answer, in bytes."""
        outcome, y = answer.outcome, answer.y
        key = (outcome.served, outcome.state.generation, y.shape[0])
        usual = request.identifier is None and not answer.explanation and not self._plan.outputs
        prefix = self._prefixes.get(key) if usual else None
        if prefix is None:
            whole = render_answer(request, answer, model=self._model, version=self._version, plan=self._plan)
            if not usual:
                return whole.SerializeToString()
            del whole.raw_output_contents[:]
            prefix = whole.SerializeToString()
            if len(self._prefixes) >= MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[key] = prefix
        raw = y.tobytes()
        return b"%b%b%b%b" % (prefix, RAW_OUTPUT_TAG, _varint(len(raw)), raw)


def _varint(value: int) -> bytes:
    """As protobuf has lengths."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def error_metadata(error: EcompileError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of an error: the fields that REST has in its body, and when gRPC's own retry comes back."""
    told = [("ecompile-code", str(int(error.code))), ("ecompile-retryable", str(error.retryable).lower())]
    if error.retry_after_seconds is not None:
        told.append(("ecompile-retry-after-seconds", f"{error.retry_after_seconds:g}"))
        told.append(("grpc-retry-pushback-ms", str(math.ceil(error.retry_after_seconds * 1000))))
    return tuple(told)


class GrpcServer:
    """Live from the start, as the REST server is; answers once the service is ready."""

    def __init__(self, service: Service, *, port: int, host: str = "[::]") -> None:
        """Listen on `port` (0: any free one) from `start` on.

        Raises DataError where the port is taken.
        """
        self._service = service
        self._codec: GrpcCodec | None = None
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_BODY_BYTES + (1 << 16)),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise DataError(
                Code.SPEC_INVALID, f"gRPC cannot listen on {host}:{port}; is another process there? Give another port."
            ) from error

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls; those in progress have this long."""
        await self._server.stop(grace_seconds)

    def _handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        # Bytes in and bytes out: what cannot be decoded is told as any other bad request, not by gRPC as UNKNOWN.
        def unary(
            method: Callable[[RequestT], Awaitable[Message | bytes]], request: type[RequestT]
        ) -> grpc.RpcMethodHandler[Any, Any]:
            async def guarded(content: bytes, context: Context) -> bytes:
                try:
                    answer = await method(_decoded(request, content))
                    return answer if isinstance(answer, bytes) else answer.SerializeToString()
                except Exception as error:  # the border of a request: every error becomes a status
                    await _abort(context, self._service.failed(error))

            return grpc.unary_unary_rpc_method_handler(guarded)

        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "ServerLive": unary(self._live, pb.ServerLiveRequest),
                "ServerReady": unary(self._ready, pb.ServerReadyRequest),
                "ServerMetadata": unary(self._server_metadata, pb.ServerMetadataRequest),
                "ModelReady": unary(self._model_ready, pb.ModelReadyRequest),
                "ModelMetadata": unary(self._model_metadata, pb.ModelMetadataRequest),
                "ModelInfer": unary(self._infer, pb.ModelInferRequest),
            },
        )

    def _known(self, name: str, version: str) -> None:
        service = self._service
        if name != service.model or version not in ("", service.version):
            raise unknown_model(name, version, model=service.model, served_version=service.version)

    async def _live(self, message: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, message: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, message: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._service.version, extensions=EXTENSIONS)

    async def _model_ready(self, message: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        self._known(message.name, message.version)
        return pb.ModelReadyResponse(ready=self._service.ready)

    async def _model_metadata(self, message: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        self._known(message.name, message.version)
        plan = self._service.bridge.network.plan

        def tensor(each: PlanTensor) -> pb.ModelMetadataResponse.TensorMetadata:
            return pb.ModelMetadataResponse.TensorMetadata(
                name=each.name, datatype=each.datatype, shape=[-1, *each.shape]
            )

        return pb.ModelMetadataResponse(
            name=self._service.model,
            versions=[self._service.version],
            platform=PLATFORM,
            inputs=[tensor(each) for each in plan.network_inputs],
            outputs=[tensor(each) for each in plan.network_outputs],
        )

    def _loaded(self) -> GrpcCodec:
        """Raises ResourceError (NOT_READY) while the model is loading."""
        if self._codec is None:
            service = self._service
            plan = service.bridge.network.plan
            self._codec = GrpcCodec(plan, model=service.model, version=service.version)
        return self._codec

    async def _infer(self, message: pb.ModelInferRequest) -> bytes:
        service = self._service
        self._known(message.model_name, message.model_version)
        codec = self._loaded()
        size_bytes = message.ByteSize()
        if size_bytes > MAX_BODY_BYTES:
            raise too_large()
        service.admission.enter(size_bytes)
        try:
            request = await service.parse(size_bytes, lambda: codec.parse(message))
            return await service.infer(request, codec.render)
        finally:
            service.admission.leave(size_bytes)


def _decoded(kind: type[RequestT], content: bytes) -> RequestT:
    """Raises DataError where the bytes are no such message."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise DataError(Code.REQUEST_INVALID, f"the request is not a {kind.DESCRIPTOR.name} message.") from error


async def _abort(context: Context, error: EcompileError) -> NoReturn:
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, f"[{int(error.code)}] {error.message}", error_metadata(error))
    raise AssertionError("abort raises")
