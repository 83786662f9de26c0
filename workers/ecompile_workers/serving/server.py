"""Open Inference Protocol v2 over REST, as a raw ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np
import orjson
from ecompile_crds.errors import Code, DataError, EcompileError, InternalError, ModelError
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .bridge import Answer, Bridge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 16 << 20
INLINE_MACS = 2_000_000
"""Work up to this (about a millisecond) runs in the event loop; more goes to a thread, so that probes are answered."""
DATATYPES = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8}
STATUS = {Code.MODEL_NOT_FOUND: 404, Code.REQUEST_TOO_LARGE: 413, Code.OVERLOADED: 429}
JSON_HEADER = (b"content-type", b"application/json")


class Metrics:
    """Metrics of the pod; labels are bounded: paths and segments."""

    def __init__(self, bridge: Bridge) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("ecompile_requests_total", "Requests by path", ["path"], registry=self.registry)
        self.failures = Counter(
            "ecompile_request_failures_total", "Refused or failed", ["code"], registry=self.registry
        )
        self.seconds = Histogram(
            "ecompile_request_seconds",
            "Time in the bridge",
            buckets=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1),
            registry=self.registry,
        )
        generation = Gauge("ecompile_routing_generation", "Generation in force", registry=self.registry)
        generation.set_function(lambda: bridge.state.generation)
        tripped = Gauge("ecompile_tripped_segments", "Segments that the breaker holds neural", registry=self.registry)
        tripped.set_function(lambda: len(bridge.alerts()))
        comparisons = Gauge("ecompile_comparisons", "Comparisons in this generation", registry=self.registry)
        comparisons.set_function(lambda: sum(s.monitor.comparisons for s in bridge.state.segments))
        fallbacks = Gauge("ecompile_fallbacks", "Refusals in this generation", registry=self.registry)
        fallbacks.set_function(lambda: sum(s.monitor.fallbacks for s in bridge.state.segments))


class Server:
    """The ASGI application."""

    def __init__(self, bridge: Bridge, *, model: str, version: str) -> None:
        self._bridge = bridge
        self._model = model
        self._version = version
        self._metrics = Metrics(bridge)
        self.draining = False
        self._inline = sum(s.macs for s in bridge.plan.segments) <= INLINE_MACS
        self._base = f"/v2/models/{model}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            status, body, header = await self._route(scope, receive)
        except EcompileError as error:
            self._metrics.failures.labels(str(int(error.code))).inc()
            status, body, header = _status(error), _error(error), JSON_HEADER
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [header, (b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _route(self, scope: Scope, receive: Receive) -> tuple[int, bytes, tuple[bytes, bytes]]:
        method, path = scope["method"], scope["path"].rstrip("/")
        if method == "POST" and path.startswith("/v2/models/") and path.endswith("/infer"):
            self._known(path)
            return 200, await self._infer(await _body(receive)), JSON_HEADER
        if method != "GET":
            raise ModelError(Code.MODEL_NOT_FOUND, f"{method} {path or '/'} is not served; see GET /v2.")
        match path:
            case "/v2/health/live":
                return 200, b'{"live":true}', JSON_HEADER
            case "/v2/health/ready":
                ready = not self.draining
                return (200 if ready else 503), orjson.dumps({"ready": ready}), JSON_HEADER
            case "/v2":
                about = {"name": "ecompile", "version": self._version, "extensions": []}
                return 200, orjson.dumps(about), JSON_HEADER
            case "/metrics":
                return 200, generate_latest(self._metrics.registry), (b"content-type", b"text/plain; version=0.0.4")
        self._known(path)
        if path.endswith("/ready"):
            return 200, orjson.dumps({"name": self._model, "ready": not self.draining}), JSON_HEADER
        return 200, self._metadata(), JSON_HEADER

    def _known(self, path: str) -> None:
        if path != self._base and not path.startswith(f"{self._base}/"):
            raise ModelError(Code.MODEL_NOT_FOUND, f"{path or '/'} is not served here; the model is {self._model}.")

    def _metadata(self) -> bytes:
        plan = self._bridge.plan

        def tensor(name: str, shape: tuple[int, ...]) -> dict[str, object]:
            return {"name": name, "datatype": "FP32", "shape": [-1, *shape]}

        return orjson.dumps(
            {
                "name": self._model,
                "versions": [plan.life],
                "platform": "ecompile_hybrid",
                "inputs": [tensor(plan.input.name, plan.input.shape)],
                "outputs": [tensor(plan.output.name, plan.output.shape)],
            }
        )

    async def _infer(self, body: bytes) -> bytes:
        request = _parse(body)
        rows = self._rows(request)
        neural = request.get("parameters", {}).get("path") == "neural"
        start = time.perf_counter()
        try:
            if self._inline:
                answer = self._bridge.infer(rows, force_neural=neural)
            else:
                answer = await asyncio.to_thread(self._bridge.infer, rows, force_neural=neural)
        except EcompileError:
            raise
        except Exception as error:
            # The border of a request: the neural path itself failed. The client gets a code, the pod goes on.
            raise InternalError(Code.INTERNAL, f"inference failed: {type(error).__name__}: {error}") from error
        self._metrics.seconds.observe(time.perf_counter() - start)
        compiled = all(path == "compiled" for path in answer.paths)
        self._metrics.requests.labels("compiled" if compiled else "neural").inc()
        return self._response(request, answer, compiled=compiled)

    def _rows(self, request: dict[str, Any]) -> NDArray[np.float32]:
        plan = self._bridge.plan
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise DataError(Code.REQUEST_INVALID, "inputs: a list with exactly one tensor is expected.")
        tensor = inputs[0]
        if tensor.get("name") != plan.input.name:
            raise DataError(
                Code.REQUEST_INVALID, f"inputs[0].name is {tensor.get('name')!r}; this model takes {plan.input.name!r}."
            )
        if tensor.get("datatype") not in DATATYPES:
            raise DataError(
                Code.REQUEST_INVALID,
                f"inputs[0].datatype {tensor.get('datatype')!r} is not one of {', '.join(DATATYPES)}.",
            )
        try:
            values = np.asarray(tensor.get("data"), dtype=np.float64).ravel()
        except (ValueError, TypeError) as error:
            raise DataError(Code.REQUEST_INVALID, "inputs[0].data: numbers are expected.") from error
        shape = tensor.get("shape")
        size = plan.input.size
        if (
            not isinstance(shape, list)
            or len(shape) < 1
            or any(not isinstance(d, int) or d < 1 for d in shape)
            or int(np.prod(shape, dtype=np.int64)) != values.size
            or int(np.prod(shape[1:], dtype=np.int64)) != size
        ):
            raise DataError(
                Code.DATA_SHAPE,
                f"inputs[0].shape {shape} with {values.size} values does not fit [rows, "
                f"{', '.join(map(str, plan.input.shape))}].",
            )
        return np.ascontiguousarray(values.reshape(-1, size), dtype=np.float32)

    def _response(self, request: dict[str, Any], answer: Answer, *, compiled: bool) -> bytes:
        plan = self._bridge.plan
        rows = len(answer.outputs)
        answered: bytes = orjson.dumps(
            {
                "model_name": self._model,
                "model_version": plan.life,
                "id": str(request.get("id", "")),
                "parameters": {
                    "path": "compiled" if compiled else "neural",
                    "segments": ";".join(f"{i}:{path}" for i, path in enumerate(answer.paths)),
                    "generation": answer.generation,
                },
                "outputs": [
                    {
                        "name": plan.output.name,
                        "datatype": "FP32",
                        "shape": [rows, *plan.output.shape],
                        "data": answer.outputs.ravel(),
                    }
                ],
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        return answered


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(Code.REQUEST_INVALID, f"the body is not JSON: {error}.") from error
    if not isinstance(request, dict) or not isinstance(request.get("parameters", {}), dict):
        raise DataError(Code.REQUEST_INVALID, "the body must be a JSON object with inputs.")
    return request


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DataError(Code.REQUEST_INVALID, "the client went away.")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise DataError(
                Code.REQUEST_TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES >> 20} MiB; send fewer rows."
            )
        if not message.get("more_body"):
            return body


def _status(error: EcompileError) -> int:
    return STATUS.get(error.code, 400 if int(error.code) // 1000 == 1 else 500)


def _error(error: EcompileError) -> bytes:
    answer: dict[str, object] = {"error": error.message, "code": int(error.code), "retryable": error.retryable}
    if error.retry_after_seconds is not None:
        answer["retryAfterSeconds"] = error.retry_after_seconds
    return bytes(orjson.dumps(answer))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
