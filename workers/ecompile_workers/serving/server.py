"""The REST server: a raw ASGI application of the Open Inference Protocol v2, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson
from ecompile_crds.errors import Code, DataError, DeadlineError, EcompileError
from ecompile_crds.tracing import KIND_SERVER, TraceContext
from prometheus_client import CollectorRegistry

from .bridge import Bridge
from .metrics import CONTENT_TYPE, Account, ServingCollector, render_metrics
from .protocol import EXTENSIONS, MAX_BODY_BYTES, SERVER_NAME, too_large, unknown_model
from .rest import HEADER_LENGTH, JSON, Headers, render_error, render_metadata
from .service import Service, not_ready
from .usual import RestCodec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS: Final = 30.0
"""Time for a request's body to arrive once its headers have; a client that is slower holds what others could use."""
JSON_HEADERS: Final = ((b"content-type", JSON),)

Response = tuple[int, Headers, bytes]


class App:
    """ASGI application. Live from the start; ready once `serve` was called and until the service drains."""

    def __init__(self, service: Service, *, body_seconds: float = BODY_SECONDS, account: Account | None = None) -> None:
        self._service = service
        self._account = account or Account(feedback=service.feedback)
        self._body_seconds = body_seconds
        self._registry = CollectorRegistry()
        self._metadata = b""
        self._codec: RestCodec | None = None
        root = f"/v2/models/{service.model}"
        self.infer_paths = frozenset({f"{root}/infer", f"{root}/versions/{service.version}/infer"})
        self._feedback_path = f"{root}/feedback"

    def serve(self, bridge: Bridge) -> None:
        """Start answering."""
        service = self._service
        self._registry.register(ServingCollector(bridge, self._account))
        plan = bridge.network.plan
        self._metadata = render_metadata(plan, model=service.model, version=service.version)
        self._codec = RestCodec(plan, model=service.model, version=service.version)
        service.start(bridge)

    @property
    def draining(self) -> bool:
        """Whether clients are to connect elsewhere."""
        return self._service.draining

    def _loaded(self) -> RestCodec:
        """Raises ResourceError (NOT_READY) while the model is loading."""
        if self._codec is None:
            raise not_ready()
        return self._codec

    def answer_now(self, headers: Headers, body: bytes) -> Response | None:
        """The response to an inference request whose body has arrived whole; None where its work is too long for the
        event loop."""
        try:
            _, json_bytes = sizes(headers)
        except DataError as error:
            return _failed(self._service.failed(error))
        return self.answer_body(body, json_bytes, traceparent=_traceparent(headers))

    def answer_body(self, body: bytes, json_bytes: int | None, *, traceparent: str = "") -> Response | None:
        """`answer_now` where the headers are known to be good, and to give the JSON's length as `json_bytes`."""
        tracer = self._service.tracer
        begun = tracer.begin(traceparent) if tracer is not None else None
        if tracer is None or begun is None:
            return self._answer_body(body, json_bytes, None)
        span = tracer.start("infer", begun, kind=KIND_SERVER)
        response = self._answer_body(body, json_bytes, span.context)
        if response is not None:  # else the long way makes its own
            span.attributes["http.response.status_code"] = response[0]
            response[1].append((b"traceparent", span.context.header().encode()))
            tracer.end(span)
        return response

    def _answer_body(self, body: bytes, json_bytes: int | None, trace: TraceContext | None) -> Response | None:
        service = self._service
        try:
            codec = self._loaded()
            request = codec.parse(body, json_bytes=json_bytes)
            if not service.short(request):
                return None
            if trace is not None:
                request = request._replace(trace=trace)
            headers, answer = service.infer_now(request, codec.render)
        except Exception as error:  # the border of a request: every error becomes an answer
            return _failed(service.failed(error))
        return 200, headers, answer

    def answered(self) -> None:
        """The response of `answer_now` or `answer_body` is on its way: work that no client waits for."""
        self._service.take_comparisons()

    def not_http(self) -> Response:
        """The response to bytes that are no request."""
        return _failed(self._service.failed(DataError(Code.REQUEST_INVALID, "this is no HTTP request.")))

    def too_much_overhead(self) -> Response:
        """The response to headers without end."""
        error = DataError(Code.REQUEST_TOO_LARGE, "the headers, or what frames the body's chunks, are too long.")
        return 431, [*JSON_HEADERS], render_error(self._service.failed(error))[1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            if scope["path"] in self.infer_paths and scope["method"] == "POST":
                status, headers, body = await self._infer(scope, receive)
            elif scope["path"] == self._feedback_path and scope["method"] == "POST":
                status, headers, body = await self._take_feedback(scope, receive)
            else:
                status, headers, body = self._other(scope["path"], scope["method"])
        except Exception as error:  # the border of a request: every error becomes an answer
            status, headers, body = _failed(self._service.failed(error))
        headers.append((b"content-length", b"%d" % len(body)))
        if self._service.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _infer(self, scope: Scope, receive: Receive) -> Response:
        tracer = self._service.tracer
        begun = tracer.begin(_traceparent(scope["headers"])) if tracer is not None else None
        if tracer is None or begun is None:
            return await self._answer(scope, receive, None)
        with tracer.span("infer", begun, kind=KIND_SERVER, **{"url.path": scope["path"]}) as span:
            status, headers, body = await self._answer(scope, receive, span.context)
            return status, [*headers, (b"traceparent", span.context.header().encode())], body

    async def _answer(self, scope: Scope, receive: Receive, trace: TraceContext | None) -> Response:
        service = self._service
        size_bytes, json_bytes = sizes(scope["headers"])
        service.admission.enter(size_bytes)
        try:
            body = await self._read_body(receive)
            codec = self._loaded()
            request = await service.parse(len(body), lambda: codec.parse(body, json_bytes=json_bytes))
            if trace is not None:
                request = request._replace(trace=trace)
            headers, answer = await service.infer(request, codec.render)
        finally:
            service.admission.leave(size_bytes)
        return 200, headers, answer

    async def _take_feedback(self, scope: Scope, receive: Receive) -> Response:
        feedback = self._service.feedback
        if feedback is None:
            raise DataError(
                Code.REQUEST_INVALID, "this model takes no feedback; set spec.serving.feedback.remember above 0."
            )
        size_bytes, _ = sizes(scope["headers"])
        self._service.admission.enter(size_bytes)
        try:
            matched, unmatched = feedback.take(await self._read_body(receive))
        finally:
            self._service.admission.leave(size_bytes)
        return _told(200, {"matched": matched, "unmatched": unmatched})

    async def _read_body(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        try:
            async with asyncio.timeout(self._body_seconds):
                return await _rest_of_body(body, receive)
        except TimeoutError as error:
            raise DeadlineError(
                Code.REQUEST_TIMEOUT, f"the request body did not arrive within {self._body_seconds:g} s; send it again."
            ) from error

    def _other(self, path: str, method: str) -> Response:
        posted = path.startswith("/v2/models/") and path.endswith(("/infer", "/feedback"))
        allowed = ("POST",) if posted else ("GET", "HEAD")
        if method not in allowed:
            error = DataError(Code.REQUEST_INVALID, f"{method} is not allowed here; use {allowed[0]}.")
            return 405, [*JSON_HEADERS, (b"allow", ", ".join(allowed).encode())], render_error(error)[1]
        service = self._service
        match path.split("/")[1:]:
            case ["v2", "health", "live"]:
                return 200, [*JSON_HEADERS], b'{"live":true}'
            case ["v2", "health", "ready"]:
                return _told(200 if service.ready else 503, {"ready": service.ready})
            case ["metrics"] if self._metadata:
                return 200, [(b"content-type", CONTENT_TYPE.encode())], render_metrics(self._registry)
            case ["v2"]:
                return _told(200, {"name": SERVER_NAME, "version": service.version, "extensions": EXTENSIONS})
            case ["v2", "models", name, *rest]:
                return self._about_model(name, rest)
        return _nothing_here()

    def _about_model(self, name: str, rest: list[str]) -> Response:
        service = self._service
        version: str | None = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        if name != service.model or version not in (None, service.version):
            raise unknown_model(name, version, model=service.model, served_version=service.version)
        match rest:
            case ["ready"]:
                return _told(200 if service.ready else 503, {"name": name, "ready": service.ready})
            case []:
                assert service.bridge, "raises while the model is loading"
                return 200, [*JSON_HEADERS], self._metadata
        return _nothing_here()


def _told(status: int, document: dict[str, object]) -> Response:
    return status, [*JSON_HEADERS], orjson.dumps(document)


def _failed(error: EcompileError) -> Response:
    headers, body = render_error(error)
    return error.http_status, headers, body


def _nothing_here() -> Response:
    error = DataError(Code.REQUEST_INVALID, "there is nothing at this path; see /v2.")
    return 404, [*JSON_HEADERS], render_error(error)[1]


def _traceparent(headers: Headers) -> str:
    return next((value.decode("latin1") for name, value in headers if name == b"traceparent"), "")


def sizes(headers: Headers) -> tuple[int, int | None]:
    """Most bytes that the body may have, and the length of its JSON where binary tensors follow.

    Raises DataError where the headers promise what is not accepted.
    """
    size_bytes, json_bytes = MAX_BODY_BYTES, None
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            size_bytes = int(value)
            if size_bytes > MAX_BODY_BYTES:
                raise too_large()
        elif name == HEADER_LENGTH:
            if not value.isdigit() or len(value) > 10:
                raise DataError(Code.REQUEST_INVALID, "Inference-Header-Content-Length must be a number of bytes.")
            json_bytes = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise DataError(
                Code.REQUEST_INVALID,
                f"Content-Encoding {value[:40].decode('latin1')!r} is not supported; send it plain.",
            )
    return size_bytes, json_bytes


async def _rest_of_body(first: bytes, receive: Receive) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DataError(Code.REQUEST_INVALID, "the client closed the connection before the request was complete.")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise too_large()
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
