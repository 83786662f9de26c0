"""Prometheus metrics, built when they are asked for; requests only add to plain numbers. Labels are bounded: paths,
segments of the plan, error codes and kinds of alerts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .bridge import Bridge
from .counters import LATENCY_BUCKETS_SECONDS, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServingCollector(Collector):
    """Reads a bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[Metric]:
        bridge = self._bridge
        counters = bridge.counters()
        totals, state = bridge.totals, bridge.state
        latency = HistogramMetricFamily(
            "ecompile_serving_request_seconds", "Requests answered, by path, and their time.", labels=["path"]
        )
        for path in sorted(totals.latency):
            buckets, total = _cumulative(totals.latency[path])
            latency.add_metric([path], buckets=buckets, sum_value=total)
        yield latency
        errors = CounterMetricFamily("ecompile_serving_errors", "Requests answered with an error.", labels=["code"])
        for code in sorted(totals.errors):
            errors.add_metric([str(code)], totals.errors[code])
        yield errors
        for field, text in (
            ("requests", "Requests that reached the segment."),
            ("compiled", "Answered by the module."),
            ("fallbacks", "Refused by the module."),
            ("guard_checked", "Requests for which the module was asked, or would have been."),
            ("comparisons", "Compared off the request path."),
            ("dropped_comparisons", "Drawn but dropped: the queue was full."),
            ("delta_sum", "Sum of relative errors over comparisons."),
        ):
            family = CounterMetricFamily(f"ecompile_serving_segment_{field}", text, labels=["segment"])
            for index in sorted(totals.segments):
                family.add_metric([str(index)], getattr(totals.segments[index], field))
            yield family
        trips = CounterMetricFamily("ecompile_serving_trips", "Breaker trips.", labels=["segment", "kind"])
        for (index, kind), count in sorted(totals.trips.items()):
            trips.add_metric([str(index), kind], count)
        yield trips
        for field, text in (
            ("delta_e_value", "E-value of: mean relative error above driftLimit."),
            ("fallback_e_value", "E-value of: fallback rate above fallbackLimit."),
            ("compiled_p50_seconds", "Median CPU time of the module."),
            ("neural_p50_seconds", "Median CPU time of the neural path of the segment."),
        ):
            gauge = GaugeMetricFamily(f"ecompile_serving_segment_{field}", text, labels=["segment"])
            for each in counters:
                gauge.add_metric([str(each.segment)], getattr(each, field))
            yield gauge
        evidence = GaugeMetricFamily(
            "ecompile_serving_segment_detector_e_value",
            "E-value of each sequential test; group: of the group gap only.",
            labels=["segment", "detector", "group"],
        )
        for each in counters:
            for seen in each.detectors:
                evidence.add_metric([str(each.segment), seen.detector.name.lower(), seen.group], seen.e_value)
        yield evidence
        tripped = GaugeMetricFamily("ecompile_serving_segment_tripped", "1: neural by the breaker.", labels=["segment"])
        for segment in state.segments:
            tripped.add_metric([str(segment.index)], float(segment.watch.alert is not None))
        yield tripped
        yield GaugeMetricFamily(
            "ecompile_serving_routing_generation",
            "Routing generation in force; 0: none.",
            value=state.generation,
        )


def render_metrics(registry: CollectorRegistry) -> bytes:
    """The exposition text."""
    return generate_latest(registry)


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    running = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, LATENCY_BUCKETS_SECONDS), "+Inf"), histogram.counts, strict=True):
        running += count
        buckets.append((bound, running))
    return buckets, histogram.sum_seconds
