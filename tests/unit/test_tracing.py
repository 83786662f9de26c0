"""Traces: W3C context, OTLP over HTTP, and spans of the pod, of Jobs and of decisions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.routing import RouteMode
from ecompile_crds.tracing import Span, TraceContext, Tracer, from_environment, parse_traceparent, to_otlp, trace_of
from ecompile_operator.reconciler import trace_decision
from ecompile_workers.jobs.steps import Steps
from ecompile_workers.serving.bridge import Bridge
from ecompile_workers.serving.comparison import ThreadComparer
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.server import App
from ecompile_workers.serving.service import Service

from .operator.decide.world import World as Operator
from .workers.serving.world import INPUTS, KEY, LIFE, MODEL, make_world, table

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def tracer(spans: list[Span], *, share: float = 1.0) -> Tracer:
    ticks = iter(range(10**6))
    return Tracer(spans.append, share=share, random=Random(1), clock=lambda: next(ticks))


@pytest.mark.parametrize(
    ("header", "context", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", TraceContext(TRACE, PARENT), True),
        (f"00-{TRACE}-{PARENT}-00", TraceContext(TRACE, PARENT), False),
        (f"cc-{TRACE}-{PARENT}-01-later", TraceContext(TRACE, PARENT), True),
        (f"00-{TRACE}-{PARENT}-01-more", None, True),
        (f"ff-{TRACE}-{PARENT}-01", None, True),
        (f"00-{'0' * 32}-{PARENT}-01", None, True),
        (f"00-{TRACE}-{'0' * 16}-01", None, True),
        (f"00-{TRACE.upper()}-{PARENT}-01", None, True),
        ("nonsense", None, True),
    ],
)
def test_traceparent_is_read_as_the_standard_says(header: str, context: TraceContext | None, sampled: bool) -> None:
    assert parse_traceparent(header) == (context, sampled)
    assert context is None or not sampled or parse_traceparent(context.header()) == (context, True)


def test_caller_decides_before_our_share_does() -> None:
    quiet = tracer([], share=0.0)
    assert quiet.begin(None) is None and quiet.begin("nonsense") is None
    assert quiet.begin(f"00-{TRACE}-{PARENT}-01") == TraceContext(TRACE, PARENT)
    assert tracer([]).begin(f"00-{TRACE}-{PARENT}-00") is None
    begun = tracer([]).begin(None)
    assert begun is not None and len(begun.trace_id) == 32 and begun.span_id == ""


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, Any, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the console."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, Any, Any]]]]:
    received: list[tuple[str, Any, Any]] = []
    handler = type("Handler", (Collector,), {"received": received})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def test_spans_reach_the_collector(collector: tuple[str, list[tuple[str, Any, Any]]]) -> None:
    endpoint, received = collector
    made = from_environment(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x"},
        service="test",
    )
    assert made is not None
    ours, exporter = made
    with pytest.raises(RuntimeError), ours.span("outer", TraceContext(TRACE, PARENT), count=3) as span:
        raise RuntimeError("boom")
    exporter.close()
    ((path, headers, document),) = received
    assert path == "/v1/traces" and headers["Authorization"] == "Bearer x"
    (resource,) = document["resourceSpans"]
    assert resource["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "test"}}]
    (told,) = resource["scopeSpans"][0]["spans"]
    assert (told["traceId"], told["parentSpanId"], told["spanId"]) == (TRACE, PARENT, span.context.span_id)
    assert told["attributes"] == [{"key": "count", "value": {"intValue": "3"}}]
    assert told["status"] == {"code": 2, "message": "RuntimeError: boom"}
    assert int(told["endTimeUnixNano"]) >= int(told["startTimeUnixNano"]) > 10**18


def test_collector_that_is_away_costs_nothing_but_its_spans() -> None:
    made = from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, service="test")
    assert made is not None
    ours, exporter = made
    for _ in range(10):
        with ours.span("s", TraceContext(TRACE, PARENT)):
            pass
    exporter.close()
    assert exporter.dropped == 10


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"), ("OTEL_TRACES_SAMPLER_ARG", "2")]
)
def test_bad_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(DataError, match=name):
        from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", name: value}, service="test")
    assert from_environment({}, service="test") is None


def test_request_bridge_and_segments_are_spans_of_the_callers_trace(tmp_path: Path) -> None:
    """On the short way; the answer has the request's traceparent."""
    spans: list[Span] = []
    world = make_world(tmp_path, segments=2)
    made = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    network, analysis = made.bridge.network, made.bridge.analysis
    ours = tracer(spans, share=0.0)
    bridge = Bridge(network, analysis=analysis, random=Random(0), comparer=ThreadComparer(), tracer=ours)
    routes = [world.route(RouteMode.COMPILED, segment=index) for index in range(2)]
    bridge.adopt(table(1, *routes), {route.segment: made.modules.load(route) for route in routes})
    app = App(Service(model=MODEL, version=LIFE, tracer=ours))
    app.serve(bridge)
    tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": [0.5] * INPUTS}
    body = orjson.dumps({"inputs": [tensor]})
    response = app.answer_now([(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())], body)
    assert response is not None and response[0] == 200
    assert [span.name for span in spans] == ["segment 0", "segment 1", "bridge", "infer"]
    first, second, through, request = spans
    assert {span.context.trace_id for span in spans} == {TRACE} and request.parent == PARENT
    assert through.parent == request.context.span_id
    assert first.parent == second.parent == through.context.span_id
    assert (first.attributes["ecompile.served"], through.attributes["ecompile.path"]) == ("compiled", "compiled")
    assert dict(response[1])[b"traceparent"] == request.context.header().encode()
    assert app.answer_now([], body) is not None and len(spans) == 4
    made.close()


def test_steps_of_a_job_are_spans() -> None:
    spans: list[Span] = []
    told: list[tuple[str, float]] = []
    steps = Steps(tracer(spans), TraceContext(TRACE, PARENT), lambda step, share: told.append((step, share)))
    for step, share in (("read", 0.1), ("read", 0.2), ("compile", 0.5)):
        steps(step, share)
    steps.end()
    assert [span.name for span in spans] == ["read", "compile"] and len(told) == 3


def test_decision_and_jobs_of_one_life_are_in_one_trace() -> None:
    """Without telling each other; a decision that changes nothing makes no span."""
    spans: list[Span] = []
    world = Operator()
    before = world.observed()
    decision = world.step()
    trace_decision(tracer(spans), before, decision, 0)
    (span,) = spans
    (job,) = decision.jobs
    assert span.context.trace_id == trace_of("default", "digits", job.input.life).trace_id
    assert job.name in str(span.attributes["ecompile.jobs"])
    world.now += timedelta(seconds=1)
    again = world.observed()
    trace_decision(tracer(spans), again, world.step(), 0)
    assert len(spans) == 1
    assert b"resourceSpans" in to_otlp(spans, {})
