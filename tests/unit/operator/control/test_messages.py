"""From messages of the control stream to values."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from ecompile_crds.control import control_pb2
from ecompile_operator.control.server import ALERT_KINDS, progress_text, to_report
from ecompile_operator.decide.observed import AlertKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0%"), (0.61, "60%"), (0.63, "65%"), (1.0, "100%"), (7.0, "100%"), (-1.0, "0%"), (math.nan, "0%")],
)
def test_progress_is_shown_in_steps_of_five_percent(fraction: float, text: str) -> None:
    assert progress_text(control_pb2.JobProgress(step="trace", fraction=fraction)) == f"trace {text}"


def test_every_alert_kind_of_the_protocol_is_known() -> None:
    known = {number for number in control_pb2.AlertKind.values() if number != control_pb2.ALERT_KIND_UNSPECIFIED}
    assert set(ALERT_KINDS) == known
    assert set(ALERT_KINDS.values()) == set(AlertKind)


def test_an_alert_of_an_unknown_kind_counts_as_the_gravest() -> None:
    message = control_pb2.Report(pod="p")
    message.alerts.add(segment=1, generation=4)
    assert to_report(message, NOW).alerts[0].kind is AlertKind.BREAKER


def test_counters_and_acknowledgement_are_carried_over() -> None:
    message = control_pb2.Report(
        pod="p", life="l", acknowledged_generation=7, refused_generation=8, refused_reason="no"
    )
    message.counters.add(segment=2, requests=10, comparisons=3, delta_sum=0.5, latency_samples=9)
    report = to_report(message, NOW)
    assert (report.pod, report.life, report.generation, report.received_at) == ("p", "l", 7, NOW)
    assert (report.refused_generation, report.refused_reason) == (8, "no")
    counters = report.counters[0]
    assert (counters.segment, counters.requests, counters.comparisons, counters.delta_sum) == (2, 10, 3, 0.5)
    assert counters.latency_samples == 9


def test_long_words_of_a_pod_are_cut() -> None:
    assert len(to_report(control_pb2.Report(refused_reason="x" * 10_000), NOW).refused_reason) == 500
