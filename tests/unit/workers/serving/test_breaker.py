"""What trips a segment's watch, and what it counts."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from ecompile_crds.control import control_pb2
from ecompile_crds.hybridmodel import Analysis, Fairness
from ecompile_workers.serving.breaker import AlertKind, SegmentWatch
from ecompile_workers.serving.comparison import Compared
from ecompile_workers.serving.control_client import to_message
from ecompile_workers.serving.counters import Tally


def make_watch(*, groups: list[str] | None = None, risk: float | None = None, **limits: float) -> SegmentWatch:
    return SegmentWatch(
        segment=2,
        generation=5,
        analysis=Analysis.model_validate(limits),
        total=Tally(),
        risk=risk,
        fairness=Fairness(groups=groups) if groups else None,
    )


def compared(watch: SegmentWatch, **changes: float | bool | str) -> Compared:
    good = {"shadow": False, "delta": 1e-7, "compiled_seconds": 1e-6, "neural_seconds": 5e-6}
    return Compared(watch, **(good | changes))  # type: ignore[arg-type]  # names as above


def test_slower_than_neural_is_a_latency_alert() -> None:
    """Medians over 200 pairs, 50 % slower under a limit of 20 %."""
    watch = make_watch()
    alerts = [watch.compared(compared(watch, compiled_seconds=1.5e-6, neural_seconds=1e-6)) for _ in range(200)]
    assert alerts[:199] == [None] * 199
    alert = alerts[199]
    assert alert is not None
    assert (alert.kind, alert.segment, alert.generation) == (AlertKind.LATENCY, 2, 5)
    assert alert.value == pytest.approx(0.5) and alert.limit == pytest.approx(0.2)


def test_few_but_bad_answers_are_found_though_the_mean_is_low() -> None:
    """3 % of the answers 10 times beyond the limit: their mean is below it."""
    watch = make_watch()
    alerts = [watch.compared(compared(watch, delta=2e-2 if n % 33 == 0 else 1e-7)) for n in range(1, 3000)]
    found = [alert for alert in alerts if alert is not None]
    assert [alert.kind for alert in found] == [AlertKind.DRIFT]
    assert "beyond driftLimit" in found[0].detail and found[0].limit == 0.01
    assert watch.tally.delta_sum / watch.tally.comparisons < 2e-3


def test_evidence_says_how_many_bad_answers_are_allowed() -> None:
    """A module with a bound of 5 % is not tripped by 3 %."""
    watch = SegmentWatch(segment=0, generation=1, analysis=Analysis(), total=Tally(), risk=0.05)
    alerts = [watch.compared(compared(watch, delta=2e-2 if n % 33 == 0 else 1e-7)) for n in range(1, 3000)]
    assert alerts == [None] * len(alerts)


def test_each_generation_alerts_once() -> None:
    """A tripped segment stays tripped; its results in flight raise nothing more."""
    watch = make_watch()
    alerts = [watch.compared(compared(watch, delta=1.0)) for _ in range(50)]
    assert len([alert for alert in alerts if alert is not None]) == 1


def test_fault_outranks_an_earlier_alert() -> None:
    """A gross fault is told even after a drift alert."""
    watch = make_watch()
    for _ in range(10):
        watch.compared(compared(watch, delta=1.0))
    alert = watch.faulted("boom")
    assert alert is not None and alert.kind is AlertKind.BREAKER
    assert watch.faulted("boom") is None


def test_shadow_results_feed_the_fallback_detector() -> None:
    """A module that would refuse is found before it answers anyone."""
    watch = make_watch()
    alerts = [watch.compared(compared(watch, shadow=True, refused=True)) for _ in range(20)]
    (alert,) = [alert for alert in alerts if alert is not None]
    assert alert.kind is AlertKind.FALLBACK and alert.value == 1.0
    assert (watch.tally.guard_checked, watch.tally.fallbacks, watch.tally.comparisons) == (20, 20, 0)


def test_totals_outlive_the_watch() -> None:
    """Prometheus counters never go back."""
    total = Tally()
    for generation in (1, 2):
        watch = SegmentWatch(segment=0, generation=generation, analysis=Analysis(), total=total)
        watch.requested()
        watch.answered()
        watch.dropped()
    assert (total.requests, total.compiled, total.dropped_comparisons) == (2, 2, 2)
    assert watch.tally.requests == 1


def test_counters_fit_the_control_stream() -> None:
    """Field for field."""
    watch = make_watch(groups=["a", "b"])
    for number in range(10):
        watch.compared(compared(watch, group="ab"[number % 2], far=0.0))
    told = to_message(watch.counters())
    assert set(asdict(watch.counters())) == {each.name for each in told.DESCRIPTOR.fields}
    assert [each.detector for each in told.detectors] == [
        control_pb2.DELTA,
        control_pb2.EXCEEDANCE,
        control_pb2.INPUTS,
        control_pb2.GAP,
        control_pb2.GAP,
    ]
    assert [(each.group, each.comparisons) for each in told.groups] == [("a", 5), ("b", 5)]


def test_errors_that_fall_on_one_group_are_found() -> None:
    """Beyond driftLimit in 15 % of one group's comparisons, nowhere else: 7.5 % of all, which the evidence allows."""
    watch = make_watch(groups=["a", "b"], risk=0.2, driftLimit=0.5)
    draw = random.Random(0)
    alerts = []
    for number in range(4000):
        group = "ab"[number % 2]
        delta = 0.6 if group == "a" and draw.random() < 0.15 else 1e-7
        alerts.append(watch.compared(compared(watch, delta=delta, group=group)))
    (alert,) = [alert for alert in alerts if alert is not None]
    assert alert.kind is AlertKind.GROUP_GAP and "group 'a'" in alert.detail
    assert alert.limit == pytest.approx(0.05) and alert.value > 0.1


def test_equal_errors_in_all_groups_are_no_gap() -> None:
    """Groups that are not named take no part."""
    watch = make_watch(groups=["a", "b"], risk=0.2, driftLimit=0.5)
    draw = random.Random(1)
    for number in range(4000):
        delta = 0.6 if draw.random() < 0.1 else 1e-7
        assert watch.compared(compared(watch, delta=delta, group=("a", "b", "", "c")[number % 4])) is None
    assert watch.groups["a"].comparisons == 1000


def test_inputs_far_from_calibration_are_found_though_answers_are_right() -> None:
    """70 % far under a limit of 50 %."""
    watch = make_watch()
    draw = random.Random(2)
    alerts = [watch.compared(compared(watch, far=float(draw.random() < 0.7))) for _ in range(1000)]
    found = [alert for alert in alerts if alert is not None]
    assert [alert.kind for alert in found] == [AlertKind.INPUT_DRIFT]
    assert "calibration sample" in found[0].detail


def test_each_request_is_compared_after_a_bad_answer() -> None:
    """Until 64 in a row were within the limit."""
    watch = make_watch()
    watch.compared(compared(watch, delta=3e-3))
    assert watch.suspicious
    for _ in range(64):
        watch.compared(compared(watch))
    assert not watch.suspicious
