"""What pods and Jobs reported last, and who is attached to be told. In memory: pods report again within a second."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ecompile_crds.routing import RoutingTable

from ..decide.observed import PodReport

ModelKey = tuple[str, str]

FORGET_AFTER = timedelta(minutes=5)
"""A pod or Job not heard of for this long is dropped from memory."""


@dataclass(frozen=True, kw_only=True)
class JobStep:
    """Newest progress of one Job Pod."""

    text: str
    at: datetime


class Hub:
    """Reports by model and pod, subscriptions of attached pods, tables in force."""

    def __init__(self, changed: Callable[[ModelKey], None], now: Callable[[], datetime]) -> None:
        self._changed = changed
        self._now = now
        self._reports: dict[ModelKey, dict[str, PodReport]] = defaultdict(dict)
        self._steps: dict[ModelKey, dict[str, JobStep]] = defaultdict(dict)
        self._tables: dict[ModelKey, RoutingTable] = {}
        self._attached: dict[ModelKey, dict[asyncio.Queue[RoutingTable], str]] = defaultdict(dict)

    def attached(self) -> int:
        """Number of open streams of pods."""
        return sum(len(queues) for queues in self._attached.values())

    def attach(self, key: ModelKey, pod: str) -> asyncio.Queue[RoutingTable]:
        """A queue on which the pod's stream finds each table; the one in force is already on it."""
        queue: asyncio.Queue[RoutingTable] = asyncio.Queue()
        self._attached[key][queue] = pod
        if key in self._tables:
            queue.put_nowait(self._tables[key])
        return queue

    def detach(self, key: ModelKey, queue: asyncio.Queue[RoutingTable]) -> None:
        """The stream ended. Its last report stands until it expires."""
        self._attached[key].pop(queue, None)
        self._changed(key)

    def push(self, table: RoutingTable) -> None:
        """Send a table to every attached pod of its model, unless it is the one they were sent."""
        key = (table.namespace, table.model)
        if self._tables.get(key) == table:
            return
        self._tables[key] = table
        for queue in self._attached[key]:
            queue.put_nowait(table)

    def report(self, key: ModelKey, report: PodReport) -> None:
        """A pod reported. What changes decisions wakes the model; plain counters wait for its next look."""
        before = self._reports[key].get(report.pod)
        self._reports[key][report.pod] = report
        if before is None or _significant(before) != _significant(report):
            self._changed(key)

    def reports(self, key: ModelKey) -> tuple[PodReport, ...]:
        """Newest reports by pod name; long-silent pods are forgotten."""
        limit = self._now() - FORGET_AFTER
        found = {pod: r for pod, r in self._reports[key].items() if r.received_at > limit}
        self._reports[key] = found
        return tuple(found[pod] for pod in sorted(found))

    def step(self, key: ModelKey, job: str, index: int, text: str) -> None:
        """A Job made progress."""
        name = f"{job}/{index}"
        before = self._steps[key].get(name)
        self._steps[key][name] = JobStep(text=text, at=self._now())
        if before is None or before.text != text:
            self._changed(key)

    def progress(self, key: ModelKey) -> str:
        """The newest progress of any Job of the model; empty after a minute without any."""
        limit = self._now() - timedelta(minutes=1)
        fresh = [step for step in self._steps[key].values() if step.at > limit]
        return max(fresh, key=lambda s: s.at).text if fresh else ""

    def forget(self, key: ModelKey) -> None:
        """The model is gone."""
        for known in (self._reports, self._steps, self._tables):
            known.pop(key, None)


def _significant(report: PodReport) -> tuple[object, ...]:
    kinds = tuple(sorted((a.kind.value, a.segment, a.generation) for a in report.alerts))
    return report.life, report.generation, kinds, report.refused_generation, report.refused_reason
