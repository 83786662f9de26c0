"""OpenTelemetry traces: spans, W3C Trace Context, and OTLP over HTTP in JSON, with the standard library only.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set: then `from_environment` gives no tracer, and nobody asks for spans
(decision 0014). Used by the operator, Jobs and serving pods. Nothing here can slow or fail what is traced: a full queue
drops and counts, and an endpoint that does not answer is logged once.

Variables, as OpenTelemetry names them: OTEL_EXPORTER_OTLP_ENDPOINT (the collector's HTTP address, such as
http://collector:4318), OTEL_EXPORTER_OTLP_HEADERS (`name=value,...`), OTEL_TRACES_SAMPLER_ARG (share of the traces that
begin here, 1 where not set; a caller's decision in `traceparent` counts before it).
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from urllib.parse import unquote

from .errors import Code, DataError

logger = logging.getLogger(__name__)

QUEUE = 4096
"""Spans waiting at most: about half a megabyte."""
BATCH = 512
FLUSH_SECONDS = 1.0
SEND_SECONDS = 5.0
KIND_INTERNAL, KIND_SERVER = 1, 2
STATUS_ERROR = 2
TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")

Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a span belongs: what `traceparent` carries. Spans that are not sampled are not made."""

    trace_id: str
    span_id: str

    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def parse_traceparent(value: str) -> tuple[TraceContext | None, bool]:
    """The caller's context, and whether it samples; (None, True) where the header is none that we understand
    (W3C Trace Context, 2021: an invalid one is as if there were none)."""
    found = TRACEPARENT.match(value.strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None, True
    if set(found[2]) == {"0"} or set(found[3]) == {"0"}:
        return None, True
    return TraceContext(found[2], found[3]), bool(int(found[4], 16) & 1)


def trace_of(*parts: str) -> TraceContext:
    """The trace of something that several processes work on, such as one life of a model: they need tell each other
    nothing to write into the same one."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    return TraceContext(digest[:32], digest[32:48])


@dataclass(slots=True)
class Span:
    """Something that takes time; ended by its tracer."""

    name: str
    context: TraceContext
    parent: str
    """Span id; empty for the first of a trace."""
    kind: int
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, Attribute] = field(default_factory=dict)
    error: str = ""


class Tracer:
    """Makes spans and hands ended ones to `export`, which must not wait. Any thread may use it."""

    def __init__(
        self,
        export: Callable[[Span], None],
        *,
        share: float = 1.0,
        random: Random | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._export, self._share = export, share
        self._random, self.now = random or Random(), clock

    def begin(self, traceparent: str | None) -> TraceContext | None:
        """The context to make a request's span in; None where it is not sampled."""
        if traceparent:
            parent, sampled = parse_traceparent(traceparent)
            if parent is not None:
                return parent if sampled else None
        if self._random.random() >= self._share:
            return None
        return TraceContext(f"{self._random.getrandbits(128) or 1:032x}", "")

    def start(self, name: str, parent: TraceContext, *, kind: int = KIND_INTERNAL, **attributes: Attribute) -> Span:
        """Begin a span."""
        context = TraceContext(parent.trace_id, f"{self._random.getrandbits(64) or 1:016x}")
        return Span(name, context, parent.span_id, kind, self.now(), attributes=dict(attributes))

    def end(self, span: Span) -> None:
        """End a span."""
        span.end_ns = self.now()
        self._export(span)

    @contextmanager
    def span(
        self, name: str, parent: TraceContext, *, kind: int = KIND_INTERNAL, **attributes: Attribute
    ) -> Iterator[Span]:
        """A span around a block; an exception ends it as an error, and goes on."""
        made = self.start(name, parent, kind=kind, **attributes)
        try:
            yield made
        except Exception as error:
            made.error = f"{type(error).__name__}: {error}"[:300]
            raise
        finally:
            self.end(made)


class Exporter:
    """Sends spans from a thread of its own."""

    def __init__(self, endpoint: str, *, resource: Mapping[str, str], headers: Mapping[str, str]) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._resource, self._headers = dict(resource), {"Content-Type": "application/json", **headers}
        self._queue: queue.Queue[Span | None] = queue.Queue(QUEUE)
        self._silent = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def __call__(self, span: Span) -> None:
        """Take a span; dropped where too many wait."""
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits."""
        self._queue.put(None)
        self._thread.join(2 * SEND_SECONDS)

    def _work(self) -> None:
        more = True
        while more:
            first = self._queue.get()
            batch, more = ([first], True) if first is not None else ([], False)
            deadline = time.monotonic() + FLUSH_SECONDS
            while more and len(batch) < BATCH and (left := deadline - time.monotonic()) > 0:
                try:
                    span = self._queue.get(timeout=left)
                except queue.Empty:
                    break
                more = span is not None
                if span is not None:
                    batch.append(span)
            if batch:
                self._send(batch)

    def _send(self, spans: Sequence[Span]) -> None:
        request = urllib.request.Request(self._url, to_otlp(spans, self._resource), self._headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=SEND_SECONDS):
                self._silent = False
        except (OSError, urllib.error.URLError) as error:
            self.dropped += len(spans)
            if not self._silent:
                logger.warning("traces cannot be sent to %s: %s; said once", self._url, error)
            self._silent = True


def to_otlp(spans: Sequence[Span], resource: Mapping[str, str]) -> bytes:
    """ExportTraceServiceRequest of OTLP 1.x in its JSON form: identifiers in hex, 64-bit numbers as text."""

    def value(told: Attribute) -> dict[str, object]:
        match told:
            case bool():
                return {"boolValue": told}
            case int():
                return {"intValue": str(told)}
            case float():
                return {"doubleValue": told}
            case str():
                return {"stringValue": told}

    def attributes(told: Mapping[str, Attribute]) -> list[dict[str, object]]:
        return [{"key": key, "value": value(each)} for key, each in told.items()]

    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes(resource)},
                "scopeSpans": [
                    {
                        "scope": {"name": "ecompile"},
                        "spans": [
                            {
                                "traceId": span.context.trace_id,
                                "spanId": span.context.span_id,
                                **({"parentSpanId": span.parent} if span.parent else {}),
                                "name": span.name,
                                "kind": span.kind,
                                "startTimeUnixNano": str(span.start_ns),
                                "endTimeUnixNano": str(span.end_ns),
                                "attributes": attributes(span.attributes),
                                "status": {"code": STATUS_ERROR, "message": span.error} if span.error else {},
                            }
                            for span in spans
                        ],
                    }
                ],
            }
        ]
    }
    return json.dumps(document).encode()


def from_environment(environ: Mapping[str, str], *, service: str, **resource: str) -> tuple[Tracer, Exporter] | None:
    """None unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

    Raises DataError naming the variable at fault.
    """
    endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not endpoint:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise DataError(
            Code.SPEC_INVALID,
            f"OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint[:80]!r}; it must be a collector's OTLP/HTTP address, such as "
            "http://collector:4318.",
        )
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(Code.SPEC_INVALID, f"OTEL_TRACES_SAMPLER_ARG is {text[:40]!r}; it must be a share from 0 to 1.")
    pairs = (part.partition("=") for part in environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if "=" in part)
    headers = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    exporter = Exporter(endpoint, resource={"service.name": service, **resource}, headers=headers)
    return Tracer(exporter, share=share), exporter


PASSED_ON = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER_ARG")
"""Variables that the operator gives its Jobs and serving pods."""
