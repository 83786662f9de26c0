"""What pods and Jobs reported last, and who is attached to be told. In memory: pods report again within a second."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ecompile_crds.routing import RoutingTable

from ..decide.gate import HEARTBEAT_EXPIRY_SECONDS
from ..decide.observed import MergedEvidence, PodAlert, PodReport, RemoteAlert
from .evidence import Merger, Wealth

ModelKey = tuple[str, str]

REPORTS_PER_SECOND = 500.0
"""What all pods together are asked for while nothing is on trial. A report costs the operator about 0.1 ms."""
SLOWEST_PACE_SECONDS = 30.0
MISSED = 2.5
"""An open stream whose last report is older than this many paces is not vouched for."""
AFTER = timedelta(milliseconds=1)
"""A report counts up to and including its last moment: to look again at that very moment would find nothing new."""
FORGET_AFTER = timedelta(minutes=5)
"""A pod or Job not heard of for this long is dropped from memory."""


@dataclass(frozen=True, kw_only=True)
class JobStep:
    """Newest progress of one Job Pod."""

    job: str
    index: int
    text: str
    """Such as `compile 60%`."""
    at: datetime


REPEAT_WITHIN = timedelta(hours=24)
"""An alert that Alertmanager has not repeated for this long (its default is four hours) counts as a new one."""
ALERTS_KEPT = 64
"""Newest alerts by Alertmanager that are remembered of one model."""


@dataclass(frozen=True)
class Stream:
    """An open stream of a pod."""

    pod: str
    pace_seconds: float
    """How often it was asked to report."""


class Hub:
    """Reports by model and pod, subscriptions of attached pods, tables in force."""

    def __init__(
        self,
        changed: Callable[[ModelKey], None],
        now: Callable[[], datetime],
        *,
        pods: Callable[[], int] = lambda: 0,
    ) -> None:
        """`pods` tells how many serving pods there are, attached or not."""
        self._changed = changed
        self._now = now
        self._pods = pods
        self._open = 0
        self._reports: dict[ModelKey, dict[str, PodReport]] = defaultdict(dict)
        self._steps: dict[ModelKey, dict[tuple[str, int], JobStep]] = defaultdict(dict)
        self._tables: dict[ModelKey, RoutingTable] = {}
        self._merged: dict[ModelKey, Merger] = defaultdict(Merger)
        self._alerts: dict[ModelKey, dict[str, tuple[RemoteAlert, datetime]]] = defaultdict(dict)
        self._attached: dict[ModelKey, dict[asyncio.Queue[RoutingTable], Stream]] = defaultdict(dict)

    def attached(self) -> int:
        """Number of open streams of pods."""
        return self._open

    def pace(self) -> float:
        """Seconds between the reports of a pod that has no news, so that all of them together are not too many."""
        return min(max(1.0, max(self._open, self._pods()) / REPORTS_PER_SECOND), SLOWEST_PACE_SECONDS)

    def attach(self, key: ModelKey, pod: str, *, pace_seconds: float = 1.0) -> asyncio.Queue[RoutingTable]:
        """A queue on which the pod's stream finds the newest table; the one in force is already on it."""
        queue: asyncio.Queue[RoutingTable] = asyncio.Queue(maxsize=1)
        self._attached[key][queue] = Stream(pod, pace_seconds)
        self._open += 1
        if key in self._tables:
            queue.put_nowait(self._tables[key])
        self._changed(key)
        return queue

    def detach(self, key: ModelKey, queue: asyncio.Queue[RoutingTable]) -> None:
        """The stream ended. Its last report stands until it expires."""
        if self._attached[key].pop(queue, None) is not None:
            self._open -= 1
        if not self._attached[key]:
            del self._attached[key]
        self._changed(key)

    def push(self, table: RoutingTable) -> None:
        """Send a table to every attached pod of its model, unless they were sent it or a later one."""
        key = (table.namespace, table.model)
        known = self._tables.get(key)
        if known is not None and known.generation >= table.generation:
            return
        self._tables[key] = table
        for queue in self._attached.get(key, ()):
            if queue.full():
                queue.get_nowait()  # a pod that was slow to take the last one needs the newest only
            queue.put_nowait(table)

    def report(self, key: ModelKey, report: PodReport, wealth: tuple[Wealth, ...] = ()) -> None:
        """A pod reported. What changes decisions wakes the model; plain counters wait for its next look."""
        before = self._reports[key].get(report.pod)
        self._reports[key][report.pod] = report
        grown = self._merged[key].take(report.pod, report.generation, wealth)
        if grown or before is None or _significant(before) != _significant(report):
            self._changed(key)

    def evidence(self, key: ModelKey) -> tuple[MergedEvidence, ...]:
        """What the sequential tests of all pods say together."""
        return self._merged[key].evidence() if key in self._merged else ()

    def reports(self, key: ModelKey) -> tuple[PodReport, ...]:
        """Newest reports by pod name; long-silent pods are forgotten."""
        if key not in self._reports:
            return ()
        limit = self._now() - FORGET_AFTER
        found = {pod: r for pod, r in self._reports[key].items() if r.received_at > limit}
        self._reports[key] = found
        return tuple(self._vouched(key, found[pod]) for pod in sorted(found))

    def _vouched(self, key: ModelKey, report: PodReport) -> PodReport:
        """The report as of now, where the pod's stream is open and keeps the pace that it was asked for. A pod that was
        asked to report slowly, because nothing is on trial, would otherwise count as silent."""
        table = self._tables.get(key)
        if table is None or table.rolling() or report.generation != table.generation:
            return report
        now = self._now()
        silent = (now - report.received_at).total_seconds()
        paces = [s.pace_seconds for s in self._attached.get(key, {}).values() if s.pod == report.pod]
        return replace(report, received_at=now) if paces and silent <= MISSED * max(paces) else report

    def expiry(self, key: ModelKey) -> datetime | None:
        """When the next report of a pod without an open stream, or of a model on trial, will be too old to count."""
        now, life = self._now(), timedelta(seconds=HEARTBEAT_EXPIRY_SECONDS) + AFTER
        ends = [report.received_at + life for report in self.reports(key)]
        return min((end for end in ends if now < end < now + life), default=None)

    def alert(self, key: ModelKey, identity: str, alert: PodAlert) -> bool:
        """Alertmanager says that an alert fires, or still fires. False where no table is in force that it could be
        about: nothing is served, or this operator has not decided yet."""
        table = self._tables.get(key)
        if table is None:
            return False
        stamped = replace(alert, generation=table.generation)
        limit = self._now() - REPEAT_WITHIN
        known = {place: found for place, found in self._alerts[key].items() if found[1] > limit}
        before = known.pop(identity, None)
        first = before[0].first_generation if before is not None else stamped.generation
        known[identity] = (RemoteAlert(alert=stamped, first_generation=first), self._now())
        self._alerts[key] = dict(list(known.items())[-ALERTS_KEPT:])
        self._changed(key)
        return True

    def resolve(self, key: ModelKey, identity: str) -> None:
        """Alertmanager says that an alert has ended."""
        if self._alerts.get(key, {}).pop(identity, None) is not None:
            self._changed(key)

    def remote_alerts(self, key: ModelKey) -> tuple[RemoteAlert, ...]:
        """Alerts by Alertmanager that it has sent lately and not resolved."""
        limit = self._now() - FORGET_AFTER
        return tuple(alert for alert, at in self._alerts.get(key, {}).values() if at > limit)

    def step(self, key: ModelKey, job: str, index: int, text: str) -> None:
        """A Job made progress."""
        limit = self._now() - FORGET_AFTER
        steps = {place: step for place, step in self._steps[key].items() if step.at > limit}
        before = steps.get((job, index))
        steps[job, index] = JobStep(job=job, index=index, text=text, at=self._now())
        self._steps[key] = steps
        if before is None or before.text != text:
            self._changed(key)

    def progress(self, key: ModelKey) -> JobStep | None:
        """The newest progress of any Job of the model; None after a minute without any."""
        limit = self._now() - timedelta(minutes=1)
        fresh = [step for step in self._steps.get(key, {}).values() if step.at > limit]
        return max(fresh, key=lambda s: s.at, default=None)

    def forget(self, key: ModelKey) -> None:
        """The model is gone."""
        for known in (self._reports, self._steps, self._tables, self._merged, self._alerts):
            known.pop(key, None)


def _significant(report: PodReport) -> tuple[object, ...]:
    kinds = tuple(sorted((a.kind.value, a.segment, a.generation) for a in report.alerts))
    return report.life, report.generation, kinds, report.refused_generation, report.refused_reason
