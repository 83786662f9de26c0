"""The REST server: a raw ASGI application of the Open Inference Protocol v2, health and metrics.

Small requests are answered in the event loop, large ones in a thread pool, so that liveness is never starved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final

import orjson
from ecompile_crds.errors import Code, DataError, EcompileError, InternalError, ResourceError
from prometheus_client import CollectorRegistry

from .bridge import Bridge, Outcome
from .metrics import CONTENT_TYPE, ServingCollector, render_metrics
from .protocol import (
    MAX_BODY_BYTES,
    InferRequest,
    http_status,
    parse_request,
    render_answer,
    render_error,
    render_metadata,
    unknown_model,
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

INLINE_SECONDS: Final = 1e-3
"""Estimated work above which a request goes to the thread pool; a hop there costs about 0.1 ms."""
INLINE_BODY_BYTES: Final = 256 << 10
"""Bodies above this are parsed in the thread pool: orjson and numpy take about 1 ms for it."""
JSON: Final = b"application/json"


class App:
    """ASGI application. Live from the start; ready once `serve` was called and until `drain`."""

    def __init__(self, *, model: str, version: str, threads: int = 2) -> None:
        self._model = model
        self._version = version
        self._bridge: Bridge | None = None
        self._registry = CollectorRegistry()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
        self._metadata = b""
        self.ready = False
        self.draining = False
        root = f"/v2/models/{model}"
        self._infer_paths = {f"{root}/infer", f"{root}/versions/{version}/infer"}

    def serve(self, bridge: Bridge) -> None:
        """Start answering."""
        self._bridge = bridge
        self._registry.register(ServingCollector(bridge))
        self._metadata = render_metadata(bridge.network.plan, model=self._model, version=self._version)
        self.ready = True

    def drain(self) -> None:
        """Not ready any more; requests are still answered, and each answer asks the client to connect elsewhere."""
        self.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            if scope["path"] in self._infer_paths and scope["method"] == "POST":
                status, kind, body = 200, JSON, await self._infer(scope, receive)
            else:
                status, kind, body = self._other(scope["path"], scope["method"])
        except EcompileError as error:
            status, kind, body = self._failed(error)
        except Exception:
            logger.exception("request failed")
            status, kind, body = self._failed(InternalError(Code.INTERNAL, "the request failed; see the pod's log."))
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _failed(self, error: EcompileError) -> tuple[int, bytes, bytes]:
        if self._bridge is not None:
            self._bridge.totals.failed(int(error.code))
        return http_status(error), JSON, render_error(error)

    async def _infer(self, scope: Scope, receive: Receive) -> bytes:
        body = await _read_body(scope, receive)
        bridge = self._serving()
        start = perf_counter()
        plan = bridge.network.plan
        if len(body) > INLINE_BODY_BYTES:
            request = await asyncio.get_running_loop().run_in_executor(self._pool, parse_request, body, plan)
        else:
            request = parse_request(body, plan)
        if bridge.network.row_seconds * len(request.rows) > INLINE_SECONDS:
            outcome, answer = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._answer, bridge, request
            )
        else:
            bridge.take_comparisons()
            outcome, answer = self._answer(bridge, request)
        bridge.settle(outcome)
        bridge.totals.served(outcome.path, perf_counter() - start)
        return answer

    def _answer(self, bridge: Bridge, request: InferRequest) -> tuple[Outcome, bytes]:
        outcome = bridge.infer(request.rows, neural_only=request.neural_only)
        output = bridge.network.plan.output
        return outcome, render_answer(request, outcome, model=self._model, version=self._version, output=output)

    def _serving(self) -> Bridge:
        if self._bridge is None:
            raise ResourceError(Code.OVERLOADED, "the model is still loading; try again.", retry_after_seconds=1.0)
        return self._bridge

    def _other(self, path: str, method: str) -> tuple[int, bytes, bytes]:
        allowed = ("POST",) if path.startswith("/v2/models/") and path.endswith("/infer") else ("GET", "HEAD")
        if method not in allowed:
            error = DataError(Code.REQUEST_INVALID, f"{method} is not allowed here; use {allowed[0]}.")
            return 405, JSON, render_error(error)
        up = self.ready and not self.draining
        match path.split("/")[1:]:
            case ["v2", "health", "live"]:
                return 200, JSON, b'{"live":true}'
            case ["v2", "health", "ready"]:
                return (200, JSON, b'{"ready":true}') if up else (503, JSON, b'{"ready":false}')
            case ["metrics"] if self.ready:
                return 200, CONTENT_TYPE.encode(), render_metrics(self._registry)
            case ["v2"]:
                return 200, JSON, orjson.dumps({"name": "ecompile", "version": "0.1.0", "extensions": []})
            case ["v2", "models", name, *rest]:
                return self._about_model(name, rest, up=up)
        return (
            404,
            JSON,
            render_error(DataError(Code.REQUEST_INVALID, "there is nothing at this path; see /v2.")),
        )

    def _about_model(self, name: str, rest: list[str], *, up: bool) -> tuple[int, bytes, bytes]:
        version: str | None = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        if name != self._model or version not in (None, self._version):
            raise unknown_model(name, version, model=self._model, served_version=self._version)
        self._serving()
        match rest:
            case []:
                return 200, JSON, self._metadata
            case ["ready"]:
                body = orjson.dumps({"name": self._model, "ready": up})
                return 200 if up else 503, JSON, body
        return (
            404,
            JSON,
            render_error(DataError(Code.REQUEST_INVALID, "there is nothing at this path; see /v2.")),
        )


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    for name, value in scope["headers"]:
        if name == b"inference-header-content-length":
            raise DataError(Code.REQUEST_INVALID, "binary tensors are not supported by this version: send JSON.")
        if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY_BYTES:
            raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DataError(Code.REQUEST_INVALID, "the client closed the connection before the request was complete.")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> DataError:
    return DataError(
        Code.REQUEST_TOO_LARGE,
        f"the request body is larger than {MAX_BODY_BYTES >> 20} MiB: send fewer rows.",
    )
