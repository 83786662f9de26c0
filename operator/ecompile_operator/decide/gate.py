"""May a rollout step be left? Three-valued: Unknown is never a yes.

The checks are an ordered list; each stands alone and answers with the measured value and its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ecompile_crds.hybridmodel import Analysis, Fairness, Step

from .bounds import mean_upper_bound
from .observed import AlertKind, Counters, GroupCounters, ObservedPod, PodReport

HEARTBEAT_EXPIRY_SECONDS = 5.0
"""Pods report every second; after five missed reports nothing is known of a pod."""
MIN_LATENCY_SAMPLES = 50
"""Fewer timings than this say nothing about a 20 % difference on a shared machine."""


DELTA_CAP_FACTOR = 10.0
"""Relative errors count as at most this multiple of the limit in the bound on their mean: a bound needs a range. What
lies above makes the bound larger, and trips the pods' own detectors."""


class Verdict(StrEnum):
    PASS = "Pass"
    FAIL = "Fail"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict with its reason, and the figures behind it."""

    verdict: Verdict
    reason: str
    kind: AlertKind | None = None
    value: float = 0.0
    limit: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a gate looks at."""

    step: Step
    analysis: Analysis
    confidence: float
    """Of the bound on the mean error."""
    generation: int
    """Routing generation that brought the step into force."""
    pods: tuple[ObservedPod, ...]
    """Ready pods of the life being served."""
    reports: tuple[PodReport, ...]
    """Fresh reports of those pods."""
    total: Counters
    fairness: Fairness | None = None


def fresh_reports(reports: Iterable[PodReport], now: datetime) -> tuple[PodReport, ...]:
    """Reports young enough to mean something."""
    return tuple(r for r in reports if (now - r.received_at).total_seconds() <= HEARTBEAT_EXPIRY_SECONDS)


def unacknowledged(pods: Iterable[ObservedPod], reports: Iterable[PodReport], generation: int) -> tuple[str, ...]:
    """Names of live pods that are not known to have `generation`, or a later one, in force."""
    acknowledged = {r.pod for r in reports if r.generation >= generation}
    return tuple(sorted(p.name for p in pods if p.name not in acknowledged))


def total(reports: Iterable[PodReport], segment: int, generation: int) -> Counters:
    """Sums of one segment over pods that have `generation` or a later one in force; latencies are the slowest pod's."""
    requests = compiled = fallbacks = checked = comparisons = samples = proven = 0
    delta_sum = delta_max = compiled_p50 = neural_p50 = 0.0
    groups: dict[str, GroupCounters] = {}
    for report in reports:
        if report.generation < generation:
            continue
        for c in report.counters:
            if c.segment != segment:
                continue
            requests += c.requests
            compiled += c.compiled
            fallbacks += c.fallbacks
            checked += c.guard_checked
            comparisons += c.comparisons
            delta_sum += c.delta_sum
            delta_max = max(delta_max, c.delta_max)
            samples += c.latency_samples
            proven += c.proven_comparisons
            for each in c.groups:
                known = groups.get(each.group, GroupCounters(group=each.group))
                groups[each.group] = GroupCounters(
                    group=each.group,
                    comparisons=known.comparisons + each.comparisons,
                    exceeded=known.exceeded + each.exceeded,
                )
            if c.latency_samples >= MIN_LATENCY_SAMPLES and c.neural_p50_seconds > 0:
                slower = compiled_p50 == 0 or (
                    c.compiled_p50_seconds * neural_p50 > compiled_p50 * c.neural_p50_seconds
                )
                if slower:
                    compiled_p50, neural_p50 = c.compiled_p50_seconds, c.neural_p50_seconds
    return Counters(
        segment=segment,
        requests=requests,
        compiled=compiled,
        fallbacks=fallbacks,
        guard_checked=checked,
        comparisons=comparisons,
        delta_sum=delta_sum,
        delta_max=delta_max,
        compiled_p50_seconds=compiled_p50,
        neural_p50_seconds=neural_p50,
        latency_samples=samples,
        proven_comparisons=proven,
        groups=tuple(groups[name] for name in sorted(groups)),
    )


def _pods_known(e: Evidence) -> Finding:
    if not e.pods:
        return Finding(verdict=Verdict.UNKNOWN, reason="no serving pod is ready")
    missing = unacknowledged(e.pods, e.reports, e.generation)
    if missing:
        refused = [r for r in e.reports if r.pod in missing and r.refused_generation >= e.generation]
        why = f" ({refused[0].refused_reason})" if refused else ""
        return Finding(
            verdict=Verdict.UNKNOWN,
            reason=f"{len(missing)} of {len(e.pods)} pods have not acknowledged generation "
            f"{e.generation}: {missing[0]}{why}",
        )
    return Finding(verdict=Verdict.PASS, reason="all pods acknowledged")


def _fallback_rate(e: Evidence) -> Finding:
    """Relies on nothing before it: refusals count even while no comparison succeeds."""
    if e.total.guard_checked < e.step.min_comparisons:
        return Finding(
            verdict=Verdict.UNKNOWN,
            reason=f"{e.total.guard_checked} of {e.step.min_comparisons} requests checked",
        )
    rate = e.total.fallbacks / e.total.guard_checked
    limit = e.analysis.fallback_limit
    verdict = Verdict.PASS if rate <= limit else Verdict.FAIL
    return Finding(
        verdict=verdict,
        reason=f"fallback rate {rate:.3f}, limit {limit:.3f}",
        kind=AlertKind.FALLBACK,
        value=rate,
        limit=limit,
    )


def _enough_comparisons(e: Evidence) -> Finding:
    if e.total.comparisons < e.step.min_comparisons:
        return Finding(verdict=Verdict.UNKNOWN, reason=f"{e.total.comparisons} of {e.step.min_comparisons} comparisons")
    return Finding(verdict=Verdict.PASS, reason=f"{e.total.comparisons} comparisons")


def _delta(e: Evidence) -> Finding:
    """Relies on `_enough_comparisons`."""
    mean = e.total.delta_sum / e.total.comparisons
    limit = e.analysis.drift_limit
    if mean > limit:
        reason = f"mean delta {mean:.2e}, limit {limit:.2e}"
        return Finding(verdict=Verdict.FAIL, reason=reason, kind=AlertKind.DRIFT, value=mean, limit=limit)
    bound = delta_bound(e.total, limit=limit, confidence=e.confidence)
    reason = f"mean delta {mean:.2e} after {e.total.comparisons} comparisons, at most {bound:.2e} with confidence "
    reason += f"{e.confidence:g}, limit {limit:.2e}"
    verdict = Verdict.PASS if bound <= limit else Verdict.UNKNOWN
    return Finding(verdict=verdict, reason=reason, kind=AlertKind.DRIFT, value=bound, limit=limit)


def delta_bound(total: Counters, *, limit: float, confidence: float) -> float:
    """Upper bound of the mean error, valid whenever one looks."""
    cap = DELTA_CAP_FACTOR * limit
    return mean_upper_bound(total.delta_sum, total.comparisons, cap=cap, confidence=confidence)


def _latency(e: Evidence) -> Finding:
    """Passes where there are timings enough in all, but in no single pod: its own detector catches a slow module."""
    if e.total.latency_samples < MIN_LATENCY_SAMPLES:
        reason = f"{e.total.latency_samples} of {MIN_LATENCY_SAMPLES} timings"
        return Finding(verdict=Verdict.UNKNOWN, reason=reason)
    if e.total.neural_p50_seconds <= 0:
        return Finding(verdict=Verdict.PASS, reason="latency not measured yet")
    ratio = e.total.compiled_p50_seconds / e.total.neural_p50_seconds - 1.0
    limit = e.analysis.latency_regression_limit
    verdict = Verdict.PASS if ratio <= limit else Verdict.FAIL
    return Finding(
        verdict=verdict,
        reason=f"compiled median latency is {ratio:+.0%} of neural, limit +{limit:.0%}",
        kind=AlertKind.LATENCY,
        value=ratio,
        limit=limit,
    )


def _group_gap(e: Evidence) -> Finding:
    """The largest difference between two groups in the share of comparisons beyond driftLimit: passes where its upper
    bound, fails where its lower bound is on the wrong side of the limit; both hold at every moment for all groups."""
    if e.fairness is None:
        return Finding(verdict=Verdict.PASS, reason="no groups are compared")
    counted = {each.group: each for each in e.total.groups}
    limit = e.fairness.max_gap
    confidence = 1.0 - (1.0 - e.confidence) / (2 * len(e.fairness.groups))
    lowest, highest = {}, {}
    for group in e.fairness.groups:
        seen = counted.get(group, GroupCounters(group=group))
        if seen.comparisons == 0:
            reason = f"no comparison in group {group!r} yet; requests name theirs in parameters.group"
            return Finding(verdict=Verdict.UNKNOWN, reason=reason)
        within = seen.comparisons - seen.exceeded
        highest[group] = mean_upper_bound(seen.exceeded, seen.comparisons, cap=1.0, confidence=confidence)
        lowest[group] = 1.0 - mean_upper_bound(within, seen.comparisons, cap=1.0, confidence=confidence)
    pairs = [(one, other) for one in e.fairness.groups for other in e.fairness.groups if one != other]
    at_least, worst = max((lowest[one] - highest[other], one) for one, other in pairs)
    at_most, widest = max((highest[one] - lowest[other], one) for one, other in pairs)
    if at_least > limit:
        reason = (
            f"errors beyond driftLimit are at least {at_least:.1%} more frequent in group {worst!r}, limit {limit:.1%}"
        )
        return Finding(verdict=Verdict.FAIL, reason=reason, kind=AlertKind.GROUP_GAP, value=at_least, limit=limit)
    reason = f"group gap at most {at_most:.1%} (group {widest!r}) with confidence {e.confidence:g}, limit {limit:.1%}"
    verdict = Verdict.PASS if at_most <= limit else Verdict.UNKNOWN
    return Finding(verdict=verdict, reason=reason, kind=AlertKind.GROUP_GAP, value=at_most, limit=limit)


CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    _pods_known,
    _fallback_rate,
    _enough_comparisons,
    _delta,
    _latency,
    _group_gap,
)


def judge(evidence: Evidence) -> Finding:
    """The first check that does not pass, else Pass."""
    finding = Finding(verdict=Verdict.UNKNOWN, reason="nothing checked")
    for check in CHECKS:
        finding = check(evidence)
        if finding.verdict is not Verdict.PASS:
            return finding
    return Finding(verdict=Verdict.PASS, reason=_delta(evidence).reason)
