"""Prometheus metrics, built when they are asked for; requests only add to plain numbers. Labels are bounded: paths,
segments of the plan, error codes and kinds of alerts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..governance.carbon import grams
from ..governance.energy import Meter
from .breaker import AlertKind
from .bridge import Bridge
from .counters import LATENCY_BUCKETS_SECONDS, Histogram
from .feedback import Feedback

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What serving costs, and how often it was wrong."""

    meters: Sequence[Meter] = ()
    region: str = ""
    """Where its electricity comes from: as governance/carbon.py takes it; empty where nobody said."""
    feedback: Feedback | None = None


class ServingCollector(Collector):
    """Reads a bridge."""

    def __init__(self, bridge: Bridge, account: Account | None = None) -> None:
        self._bridge = bridge
        self._account = account or Account()

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
            ("proven_comparisons", "Of the comparisons, those whose inputs lie in a proven region."),
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
        yield CounterMetricFamily(
            "ecompile_serving_comparer_restarts",
            "Ends of the comparing process that were not meant.",
            value=totals.comparer_restarts,
        )
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
        limits = GaugeMetricFamily(
            "ecompile_serving_limit", "Limit of spec.rollout.analysis, by alert.", labels=["kind"]
        )
        for kind, limit in (
            (AlertKind.DRIFT, bridge.analysis.drift_limit),
            (AlertKind.FALLBACK, bridge.analysis.fallback_limit),
            (AlertKind.LATENCY, bridge.analysis.latency_regression_limit),
            (AlertKind.INPUT_DRIFT, bridge.analysis.input_drift_limit),
        ):
            limits.add_metric([kind.value], limit)
        yield limits
        yield from self._costs()
        yield from self._labelled()
        yield GaugeMetricFamily(
            "ecompile_serving_routing_generation",
            "Routing generation in force; 0: none.",
            value=state.generation,
        )

    def _costs(self) -> Iterator[Metric]:
        region = self._account.region
        joules = CounterMetricFamily(
            "ecompile_serving_energy_joules", "Energy of this process since it started, by method.", labels=["method"]
        )
        uncertainty = GaugeMetricFamily(
            "ecompile_serving_energy_uncertainty", "Relative uncertainty of the energy, by method.", labels=["method"]
        )
        carbon = CounterMetricFamily(
            "ecompile_serving_carbon_grams",
            "CO2 equivalent of the energy, by method and region.",
            labels=["method", "region"],
        )
        for meter in self._account.meters:
            found = meter.read()
            joules.add_metric([found.method.value], found.joules)
            uncertainty.add_metric([found.method.value], found.uncertainty)
            if region:
                carbon.add_metric([found.method.value, region], grams(found.joules, region))
        yield joules
        yield uncertainty
        yield carbon

    def _labelled(self) -> Iterator[Metric]:
        feedback = self._account.feedback
        if feedback is None:
            return
        told = CounterMetricFamily(
            "ecompile_serving_feedback", "Answers that a label was given for, by path.", labels=["path", "correct"]
        )
        for (path, correct), count in sorted(feedback.counts.items()):
            told.add_metric([path, str(correct).lower()], count)
        yield told
        yield CounterMetricFamily(
            "ecompile_serving_feedback_unmatched",
            "Labels of answers that this pod does not remember.",
            value=feedback.unmatched,
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
