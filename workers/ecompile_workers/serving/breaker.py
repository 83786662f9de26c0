"""The breaker of one segment in one routing generation: counts, feeds the detectors, says when to trip.

It decides; the bridge swaps the route. There is no way back within a generation: a newer one makes a new watch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ecompile_crds.hybridmodel import Analysis, Fairness

from .comparison import Compared
from .counters import DetectorEvidence, Detectors, GroupCounters, GroupTally, SegmentCounters, Tally
from .detectors import GapDetector, LatencyDetector, MeanDetector

RECENT = 50
"""Observations that an alert's figure is taken over; whether to alert is the detector's decision, over all of them."""

RISK_FLOOR = 0.01
"""Least limit of the share of comparisons beyond driftLimit; above it, what the module's evidence allows. The mean can
stay low while a few inputs are answered badly: this is the test that sees them."""

SUSPECT_COMPARISONS = 64
"""After a comparison beyond driftLimit, each request is compared until this many comparisons in a row were within it.
What is drawn depends on the past only, so the sequential tests stay valid; a real change is found within 200 requests
though 5 % are compared in quiet times."""


class AlertKind(StrEnum):
    """Why a segment tripped; the kinds of control.proto."""

    BREAKER = "breaker"
    DRIFT = "drift"
    FALLBACK = "fallback"
    LATENCY = "latency"
    INPUT_DRIFT = "input-drift"
    GROUP_GAP = "group-gap"


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A tripped segment: measured value, its limit, and a sentence."""

    kind: AlertKind
    segment: int
    value: float
    limit: float
    detail: str
    generation: int


class SegmentWatch:
    """Everything known of one segment in one generation. Used by the thread that answers requests only."""

    def __init__(
        self,
        *,
        segment: int,
        generation: int,
        analysis: Analysis,
        total: Tally,
        risk: float | None = None,
        fairness: Fairness | None = None,
    ) -> None:
        """`risk` is the bound of the module's evidence: the share of inputs that may be answered beyond the limit."""
        self.segment = segment
        self.generation = generation
        self.tally = Tally()
        self._total = total
        self.alert: Alert | None = None
        self._drift = MeanDetector(limit=analysis.drift_limit, interval=analysis.false_alarm_interval)
        self._fallback = MeanDetector(limit=analysis.fallback_limit, interval=analysis.false_alarm_interval)
        self._exceedance = MeanDetector(limit=max(RISK_FLOOR, risk or 0.0), interval=analysis.false_alarm_interval)
        self._latency = LatencyDetector(limit=analysis.latency_regression_limit)
        self._inputs = MeanDetector(limit=analysis.input_drift_limit, interval=analysis.false_alarm_interval)
        self._gaps: dict[str, GapDetector] = {}
        self.groups: dict[str, GroupTally] = {}
        for group in fairness.groups if fairness is not None else ():
            assert fairness is not None
            self._gaps[group] = GapDetector(max_gap=fairness.max_gap, interval=analysis.false_alarm_interval)
            self.groups[group] = GroupTally()
        self._suspect = 0
        self._accuracy: float | None = None
        self._recent_refusals: deque[bool] = deque(maxlen=RECENT)
        self._recent_deltas: deque[float] = deque(maxlen=RECENT)

    def requested(self) -> None:
        """A request reached the segment."""
        self.tally.requests += 1
        self._total.requests += 1

    def answered(self) -> Alert | None:
        """The module answered a request."""
        self.tally.compiled += 1
        self._total.compiled += 1
        return self._checked(refused=False)

    def refused(self) -> Alert | None:
        """The module was asked, or would have been, and refused."""
        self.tally.fallbacks += 1
        self._total.fallbacks += 1
        return self._checked(refused=True)

    def faulted(self, detail: str) -> Alert | None:
        """The module raised, or gave numbers that are not finite where the network does not."""
        self.refused()
        if self.alert is not None and self.alert.kind is AlertKind.BREAKER:
            return None
        return self._trip(AlertKind.BREAKER, value=1.0, limit=0.0, detail=detail)

    def keep_out(self, detail: str) -> Alert | None:
        """The module may not be used at all."""
        return self._trip(AlertKind.BREAKER, value=1.0, limit=0.0, detail=detail)

    def dropped(self) -> None:
        """A comparison was drawn, but the queue was full."""
        self.tally.dropped_comparisons += 1
        self._total.dropped_comparisons += 1

    def compared(self, result: Compared) -> Alert | None:
        """A comparison was done off the request path; `shadow` ones also show whether the module would answer."""
        if result.fault:
            return self.faulted(result.fault)
        if result.refused:
            return self.refused()
        alert = self._checked(refused=False) if result.shadow else None
        if result.delta is None:
            return alert
        for tally in (self.tally, self._total):
            tally.comparisons += 1
            tally.delta_sum += result.delta
            tally.delta_max = max(tally.delta_max, result.delta)
            tally.proven_comparisons += result.proven
        self._recent_deltas.append(result.delta)
        self._accuracy = self.recent_accuracy
        slow = self._latency.observe(compiled_seconds=result.compiled_seconds, neural_seconds=result.neural_seconds)
        beyond = not result.delta <= self._drift.limit
        self._suspect = SUSPECT_COMPARISONS if beyond else max(0, self._suspect - 1)
        drifts = self._drift.observe(result.delta)
        exceeds = self._exceedance.observe(1.0 if beyond else 0.0)
        if drifts or exceeds:
            return alert or self._drifted(drifts=drifts)
        alert = alert or self._group_gap(result.group, beyond=beyond) or self._input_drift(result.far)
        if slow:
            regression, limit = self._latency.regression, self._latency.limit
            return alert or self._trip(
                AlertKind.LATENCY,
                value=regression,
                limit=limit,
                detail=f"compiled p50 is {regression:.0%} above neural p50, limit {limit:.0%}",
            )
        return alert

    def _drifted(self, *, drifts: bool) -> Alert | None:
        """The alert tells the mean error where that is above its limit, else the share of errors beyond it."""
        recent, drift = self._recent_deltas, self._drift
        mean, share = sum(recent) / len(recent), sum(delta > drift.limit for delta in recent) / len(recent)
        if drifts or mean > drift.limit:
            value, limit = mean, drift.limit
            told = f"mean relative error {mean:.3g} over the last {len(recent)} comparisons, limit {limit:g}"
        else:
            value, limit = share, self._exceedance.limit
            beyond = f"beyond driftLimit {drift.limit:g}, limit {limit:.1%}"
            told = f"{share:.1%} of the last {len(recent)} comparisons {beyond}"
        e_value = max(drift.value, self._exceedance.value)
        return self._trip(AlertKind.DRIFT, value=value, limit=limit, detail=f"{told}; e-value {e_value:.3g}")

    def _group_gap(self, group: str, *, beyond: bool) -> Alert | None:
        """A group that the operator did not name takes part in none of the tests."""
        mine = self.groups.get(group)
        if mine is None:
            return None
        mine.comparisons += 1
        mine.exceeded += beyond
        value = 1.0 if beyond else 0.0
        found = [name for name, gap in self._gaps.items() if gap.observe(value, mine=name == group)]
        if not found:
            return None
        wealth = self._gaps[found[0]].wealth()
        return self._trip(
            AlertKind.GROUP_GAP,
            value=wealth.mean,
            limit=wealth.limit,
            detail=f"comparisons beyond driftLimit are {wealth.mean:.1%} more frequent in group {found[0]!r} than in "
            f"the others over {wealth.observations} pairs, limit {wealth.limit:.1%}; e-value {wealth.e_value:.3g}",
        )

    def _input_drift(self, far: float | None) -> Alert | None:
        if far is None or not self._inputs.observe(far):
            return None
        wealth = self._inputs.wealth()
        return self._trip(
            AlertKind.INPUT_DRIFT,
            value=wealth.mean,
            limit=wealth.limit,
            detail=f"{wealth.mean:.1%} of {wealth.observations} inputs are further from the calibration sample than "
            f"95 % of that sample, inputDriftLimit {wealth.limit:.1%}; e-value {wealth.e_value:.3g}",
        )

    @property
    def suspicious(self) -> bool:
        """Whether each request is to be compared."""
        return self._suspect > 0

    def evidence(self) -> Iterator[DetectorEvidence]:
        """What each detector that has seen anything has seen."""
        for detector, test in (
            (Detectors.DELTA, self._drift),
            (Detectors.EXCEEDANCE, self._exceedance),
            (Detectors.REFUSAL, self._fallback),
            (Detectors.INPUTS, self._inputs),
        ):
            wealth = test.wealth()
            if wealth.observations:
                yield DetectorEvidence.of(detector, "", wealth)
        for group, gap in self._gaps.items():
            wealth = gap.wealth()
            if wealth.observations:
                yield DetectorEvidence.of(Detectors.GAP, group, wealth)

    def last_accuracy(self) -> float | None:
        """`recent_accuracy` as of the last comparison: for each request, so it costs nothing."""
        return self._accuracy

    @property
    def recent_accuracy(self) -> float | None:
        """Share of the last comparisons within driftLimit; None before the first."""
        recent = tuple(self._recent_deltas)  # one step for the interpreter: another thread may be adding
        return sum(delta <= self._drift.limit for delta in recent) / len(recent) if recent else None

    def counters(self) -> SegmentCounters:
        """A copy of the counts, with the detectors' values."""
        compiled_p50, compiled_p99 = self._latency.compiled.quantiles()
        neural_p50, neural_p99 = self._latency.neural.quantiles()
        return SegmentCounters(
            segment=self.segment,
            **asdict(self.tally),
            delta_e_value=self._drift.value,
            fallback_e_value=self._fallback.value,
            compiled_p50_seconds=compiled_p50,
            neural_p50_seconds=neural_p50,
            compiled_p99_seconds=compiled_p99,
            neural_p99_seconds=neural_p99,
            latency_samples=min(len(self._latency.compiled), len(self._latency.neural)),
            detectors=tuple(self.evidence()),
            groups=tuple(GroupCounters(group=name, **asdict(tally)) for name, tally in self.groups.items()),
        )

    def state(self) -> dict[str, Any]:
        """Everything that must survive a restart, as JSON values; `restore` takes it."""
        return {
            "tally": asdict(self.tally),
            "drift": self._drift.state(),
            "fallback": self._fallback.state(),
            "exceedance": self._exceedance.state(),
            "latency": self._latency.state(),
            "inputs": self._inputs.state(),
            "gaps": {group: gap.state() for group, gap in self._gaps.items()},
            "groups": {group: asdict(tally) for group, tally in self.groups.items()},
            "suspect": self._suspect,
            "refusals": list(self._recent_refusals),
            "deltas": list(self._recent_deltas),
            "alert": asdict(self.alert) if self.alert is not None else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a watch of the same segment, generation and module; the totals stay as they are.

        Raises KeyError, TypeError or ValueError where it is not such a state; the watch is then half restored.
        """
        self.tally = Tally(**state["tally"])
        self._drift.restore(state["drift"])
        self._fallback.restore(state["fallback"])
        self._exceedance.restore(state["exceedance"])
        self._latency.restore(state["latency"])
        self._inputs.restore(state["inputs"])
        for group, gap in self._gaps.items():
            if group in state["gaps"]:
                gap.restore(state["gaps"][group])
                self.groups[group] = GroupTally(**state["groups"][group])
        self._suspect = int(state["suspect"])
        self._recent_refusals.extend(bool(each) for each in state["refusals"])
        self._recent_deltas.extend(float(each) for each in state["deltas"])
        self._accuracy = self.recent_accuracy
        alert = state["alert"]
        if alert is not None:
            value = alert["value"]  # JSON has no infinity: it is null there
            told = alert | {"kind": AlertKind(alert["kind"]), "value": math.inf if value is None else value}
            self.alert = Alert(**told)

    def _checked(self, *, refused: bool) -> Alert | None:
        self.tally.guard_checked += 1
        self._total.guard_checked += 1
        self._recent_refusals.append(refused)
        if not refused:
            self._fallback.observe_zero()
            return None
        if not self._fallback.observe(1.0):
            return None
        seen, limit = len(self._recent_refusals), self._fallback.limit
        rate = sum(self._recent_refusals) / seen
        return self._trip(
            AlertKind.FALLBACK,
            value=rate,
            limit=limit,
            detail=f"{rate:.0%} of the last {seen} requests refused by the module, limit {limit:.0%}; "
            f"e-value {self._fallback.value:.3g}",
        )

    def _trip(self, kind: AlertKind, *, value: float, limit: float, detail: str) -> Alert | None:
        if self.alert is not None and kind is not AlertKind.BREAKER:
            return None
        self.alert = Alert(
            kind=kind,
            segment=self.segment,
            value=value if math.isfinite(value) else math.inf,
            limit=limit,
            detail=detail,
            generation=self.generation,
        )
        return self.alert
