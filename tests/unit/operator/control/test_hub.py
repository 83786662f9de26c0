"""Reports, subscriptions and tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from ecompile_operator.control.hub import FORGET_AFTER, Hub, ModelKey
from ecompile_operator.decide.observed import AlertKind, Counters, PodAlert, PodReport

KEY = ("test", "net")


class Stage:
    """A hub, its clock and what it woke."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.woken: list[ModelKey] = []
        self.hub = Hub(self.woken.append, lambda: self.now)

    def report(self, *, generation: int = 1, requests: int = 0, alerts: tuple[PodAlert, ...] = ()) -> None:
        counters = (Counters(segment=0, requests=requests),)
        report = PodReport(
            pod="net-0", life="l", received_at=self.now, generation=generation, counters=counters, alerts=alerts
        )
        self.hub.report(KEY, report)


def table(generation: int) -> RoutingTable:
    segments = (SegmentRoute(segment=0),)
    return RoutingTable(model="net", namespace="test", life="l", generation=generation, segments=segments)


ALERT = PodAlert(kind=AlertKind.DRIFT, segment=0, value=1.0, limit=0.1, detail="", generation=1)


def test_an_attached_pod_finds_the_table_in_force() -> None:
    stage = Stage()
    stage.hub.push(table(4))
    assert stage.hub.attach(KEY, "net-0").get_nowait() == table(4)


def test_a_new_table_reaches_every_attached_pod() -> None:
    stage = Stage()
    queues = [stage.hub.attach(KEY, f"net-{i}") for i in range(3)]
    stage.hub.push(table(1))
    assert [q.get_nowait().generation for q in queues] == [1, 1, 1]


def test_the_same_or_an_older_table_is_not_sent() -> None:
    stage = Stage()
    queue = stage.hub.attach(KEY, "net-0")
    stage.hub.push(table(5))
    queue.get_nowait()
    stage.hub.push(table(5))
    stage.hub.push(table(4))
    assert queue.empty()


def test_a_slow_pod_gets_the_newest_table_only() -> None:
    stage = Stage()
    queue = stage.hub.attach(KEY, "net-0")
    for generation in (1, 2, 3):
        stage.hub.push(table(generation))
    assert queue.get_nowait().generation == 3
    assert queue.empty()


def test_plain_counters_do_not_wake_the_model() -> None:
    stage = Stage()
    stage.report(requests=1)
    stage.woken.clear()
    stage.report(requests=2)
    assert stage.woken == []
    assert stage.hub.reports(KEY)[0].counters[0].requests == 2


def test_first_contact_acknowledgement_alert_and_disconnect_wake_the_model() -> None:
    stage = Stage()
    queue = stage.hub.attach(KEY, "net-0")
    assert stage.woken == [KEY]
    steps: list[Callable[[], None]] = [
        stage.report,
        lambda: stage.report(generation=2),
        lambda: stage.report(generation=2, alerts=(ALERT,)),
        lambda: stage.hub.detach(KEY, queue),
    ]
    for step in steps:
        stage.woken.clear()
        step()
        assert stage.woken == [KEY]
    assert stage.hub.attached() == 0


def test_a_long_silent_pod_is_forgotten() -> None:
    stage = Stage()
    stage.report()
    stage.now += FORGET_AFTER - timedelta(seconds=1)
    assert len(stage.hub.reports(KEY)) == 1
    stage.now += timedelta(seconds=1)
    assert stage.hub.reports(KEY) == ()


def test_progress_is_the_newest_step_and_expires() -> None:
    stage = Stage()
    stage.hub.step(KEY, "job", 0, "compile 20%")
    stage.now += timedelta(seconds=5)
    stage.hub.step(KEY, "job", 1, "fold 5%")
    step = stage.hub.progress(KEY)
    assert step is not None and (step.index, step.text) == (1, "fold 5%")
    stage.now += timedelta(seconds=61)
    assert stage.hub.progress(KEY) is None


def test_unchanged_progress_does_not_wake_the_model() -> None:
    stage = Stage()
    stage.hub.step(KEY, "job", 0, "compile 20%")
    stage.woken.clear()
    stage.hub.step(KEY, "job", 0, "compile 20%")
    assert stage.woken == []


def test_a_forgotten_model_leaves_nothing_behind() -> None:
    stage = Stage()
    stage.report()
    stage.hub.push(table(3))
    stage.hub.forget(KEY)
    assert stage.hub.reports(KEY) == ()
    assert stage.hub.attach(KEY, "net-0").empty()


def test_a_pod_asked_to_report_slowly_is_not_silent_while_its_stream_is_open() -> None:
    stage = Stage()
    stage.hub.push(table(1))
    stage.hub.attach(KEY, "net-0", pace_seconds=20.0)
    stage.report()
    stage.now += timedelta(seconds=30)
    assert stage.hub.reports(KEY)[0].received_at == stage.now
    stage.now += timedelta(seconds=30)
    assert stage.hub.reports(KEY)[0].received_at < stage.now, "it has missed what it was asked for"


def test_a_pod_with_a_module_on_trial_must_report_each_second_whatever_its_pace() -> None:
    stage = Stage()
    rolling = table(1).model_copy(update={"segments": (SegmentRoute(segment=0, mode=RouteMode.SHADOW),)})
    stage.hub.push(rolling)
    stage.hub.attach(KEY, "net-0", pace_seconds=20.0)
    stage.report()
    reported_at, stage.now = stage.now, stage.now + timedelta(seconds=10)
    assert stage.hub.reports(KEY)[0].received_at == reported_at


def test_a_pod_that_has_not_acknowledged_or_is_not_attached_is_not_vouched_for() -> None:
    stage = Stage()
    stage.hub.push(table(2))
    queue = stage.hub.attach(KEY, "net-0", pace_seconds=20.0)
    stage.report(generation=1)
    reported_at, stage.now = stage.now, stage.now + timedelta(seconds=10)
    assert stage.hub.reports(KEY)[0].received_at == reported_at
    stage.report(generation=2)
    stage.hub.detach(KEY, queue)
    reported_at, stage.now = stage.now, stage.now + timedelta(seconds=3)
    assert stage.hub.reports(KEY)[0].received_at == reported_at
    expires = stage.hub.expiry(KEY)
    assert expires is not None and expires > reported_at + timedelta(seconds=5)
    stage.now = expires
    assert stage.hub.expiry(KEY) is None, "nobody is woken for it again"


def test_the_more_pods_there_are_the_slower_each_is_asked_to_report() -> None:
    def pace(pods: int) -> float:
        return Hub(lambda key: None, lambda: datetime(2026, 1, 1, tzinfo=UTC), pods=lambda: pods).pace()

    assert [pace(n) for n in (0, 500, 5000, 10**6)] == [1.0, 1.0, 10.0, 30.0]
