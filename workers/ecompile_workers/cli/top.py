"""`ecompile top`: what serving pods do now, from their metrics. The figures are pure functions."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ecompile_crds.errors import EXIT_STATUS, Code, DataError, ResourceError
from prometheus_client.parser import text_string_to_metric_families

FETCH_SECONDS = 5.0
PREFIX = "ecompile_serving_"

Labels = tuple[tuple[str, str], ...]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A pod's metrics at one moment."""

    seconds: float
    """Of the reader's clock."""
    values: Mapping[tuple[str, Labels], float]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values of a metric by one of its labels."""
        return {
            dict(labels)[label]: value
            for (found, labels), value in self.values.items()
            if found == PREFIX + name and label in dict(labels)
        }


@dataclass(frozen=True, kw_only=True)
class PathFigures:
    """Requests answered by one path between two samples."""

    path: str
    requests_per_second: float
    p50_seconds: float
    p99_seconds: float


@dataclass(frozen=True, kw_only=True)
class SegmentFigures:
    """One segment between two samples; a share is None where nothing happened."""

    segment: str
    coverage: float | None
    """Share of requests that the module answered: deterministic coverage."""
    fallback: float | None
    """Refused, of what the module was asked."""
    delta: float | None
    """Mean relative error of the comparisons."""
    drift_e_value: float
    fallback_e_value: float
    tripped: bool
    proven: float | None = None
    """Share of the compared requests whose inputs lie in a proven region."""


@dataclass(frozen=True, kw_only=True)
class EnergyFigures:
    """Energy by one method between two samples."""

    method: str
    watts: float
    joules_per_request: float | None
    uncertainty: float
    """Relative."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One pod between two samples."""

    generation: int
    errors_per_second: float
    paths: tuple[PathFigures, ...]
    segments: tuple[SegmentFigures, ...]
    energy: tuple[EnergyFigures, ...] = ()
    error_incidence: float | None = None
    """Share of the labelled answers that were wrong."""


def parse(text: str, *, seconds: float) -> Sample:
    """A sample from the exposition text.

    Raises DataError where it is not a serving pod's.
    """
    try:
        values = {
            (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except ValueError as error:
        raise DataError(Code.DATA_MALFORMED, f"the metrics cannot be read: {error}.") from error
    if (f"{PREFIX}routing_generation", ()) not in values:
        raise DataError(Code.DATA_MALFORMED, "these are not the metrics of a serving pod; give its REST address.")
    return Sample(seconds=seconds, values=values)


def figures(before: Sample, after: Sample) -> Figures:
    """What happened between two samples of one pod; a pod that has restarted counts from its start."""
    elapsed = max(after.seconds - before.seconds, 1e-9)

    def more(name: str, label: str) -> dict[str, float]:
        old = before.by(name, label)
        return {key: _grown(old.get(key, 0.0), value) for key, value in after.by(name, label).items()}

    paths = []
    for path, count in sorted(more("request_seconds_count", "path").items()):
        buckets = _buckets(before, after, path)
        p50, p99 = quantile(buckets, 0.5), quantile(buckets, 0.99)
        paths.append(PathFigures(path=path, requests_per_second=count / elapsed, p50_seconds=p50, p99_seconds=p99))
    counted = ("requests", "compiled", "fallbacks", "guard_checked", "comparisons", "delta_sum", "proven_comparisons")
    grown = {name: more(f"segment_{name}_total", "segment") for name in counted}
    drift, fallback = after.by("segment_delta_e_value", "segment"), after.by("segment_fallback_e_value", "segment")
    tripped = after.by("segment_tripped", "segment")
    segments = tuple(
        SegmentFigures(
            segment=segment,
            coverage=_share(grown["compiled"][segment], grown["requests"][segment]),
            fallback=_share(grown["fallbacks"][segment], grown["guard_checked"][segment]),
            delta=_share(grown["delta_sum"][segment], grown["comparisons"][segment]),
            drift_e_value=drift.get(segment, 0.0),
            fallback_e_value=fallback.get(segment, 0.0),
            tripped=bool(tripped.get(segment, 0.0)),
            proven=_share(grown["proven_comparisons"].get(segment, 0.0), grown["comparisons"][segment]),
        )
        for segment in sorted(grown["requests"], key=int)
    )
    served = sum(more("request_seconds_count", "path").values())
    uncertainty = after.by("energy_uncertainty", "method")
    energy = tuple(
        EnergyFigures(
            method=method,
            watts=joules / elapsed,
            joules_per_request=_share(joules, served),
            uncertainty=uncertainty.get(method, 0.0),
        )
        for method, joules in sorted(more("energy_joules_total", "method").items())
    )
    right, wrong = (_labelled(before, after, correct) for correct in ("true", "false"))
    return Figures(
        generation=int(after.values[(f"{PREFIX}routing_generation", ())]),
        errors_per_second=sum(more("errors_total", "code").values()) / elapsed,
        paths=tuple(paths),
        segments=segments,
        energy=energy,
        error_incidence=_share(wrong, wrong + right),
    )


def _labelled(before: Sample, after: Sample, correct: str) -> float:
    """Answers that were labelled right, or wrong, between two samples, over all paths."""
    return sum(
        _grown(before.values.get((name, labels), 0.0), value)
        for (name, labels), value in after.values.items()
        if name == f"{PREFIX}feedback_total" and dict(labels)["correct"] == correct
    )


def _grown(old: float, new: float) -> float:
    """Growth of a counter; one that has gone back was started anew."""
    return new - old if new >= old else new


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _buckets(before: Sample, after: Sample, path: str) -> list[tuple[float, float]]:
    """Cumulative counts between two samples by upper bound in seconds, of one path."""
    name = f"{PREFIX}request_seconds_bucket"
    found = []
    for (metric, labels), value in after.values.items():
        told = dict(labels)
        if metric == name and told["path"] == path:
            found.append((float(told["le"]), _grown(before.values.get((metric, labels), 0.0), value)))
    return sorted(found)


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """A quantile of a cumulative histogram, linear within a bucket as Prometheus has it; the last bound of all where it
    lies beyond, 0 without samples."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return 0.0
    rank, low, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            return low if bound == float("inf") else low + (bound - low) * (rank - below) / max(count - below, 1e-12)
        low, below = bound, count
    return low


def render(pods: Mapping[str, Figures | str]) -> str:
    """A table; a pod that cannot be read has a sentence in its place."""
    lines = []
    for address, found in pods.items():
        if isinstance(found, str):
            lines.append(f"{address}  {found}")
            continue
        lines.append(f"{address}  generation {found.generation}, {found.errors_per_second:.1f} errors/s")
        for path in found.paths:
            times = f"p50 {path.p50_seconds * 1e3:.3f} ms, p99 {path.p99_seconds * 1e3:.3f} ms"
            lines.append(f"  {path.path:<10} {path.requests_per_second:>10.1f} requests/s   {times}")
        for used in found.energy:
            per = "-" if used.joules_per_request is None else f"{used.joules_per_request * 1e3:.3g} mJ/request"
            lines.append(f"  energy     {used.watts:>10.2f} W   {per} ({used.method}, +-{used.uncertainty:.0%})")
        if found.error_incidence is not None:
            lines.append(f"  labelled   {found.error_incidence:>10.1%} wrong")
        for each in found.segments:
            told = f"covered {_percent(each.coverage)}, proven {_percent(each.proven)}, "
            told += f"refused {_percent(each.fallback)}, delta {_small(each.delta)}"
            values = f"e-values: drift {each.drift_e_value:.3g}, fallback {each.fallback_e_value:.3g}"
            lines.append(f"  segment {each.segment:<3} {told}; {values}{'  TRIPPED' if each.tripped else ''}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def fetch(address: str) -> Sample:
    """The metrics of the pod at host:port, or at a URL.

    Raises ResourceError where it cannot be reached, DataError where it is not a pod.
    """
    base = address if address.startswith(("http://", "https://")) else f"http://{address}"
    try:
        with urllib.request.urlopen(f"{base.rstrip('/')}/metrics", timeout=FETCH_SECONDS) as response:
            text = response.read().decode("utf-8", "replace")
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ResourceError(Code.CONTROL_UNAVAILABLE, f"cannot be reached: {error}.") from error
    return parse(text, seconds=time.monotonic())


def top(addresses: Sequence[str], *, interval_seconds: float, once: bool, show: Say) -> int:
    """Show the figures every interval, until interrupted; `once`: a single time."""
    before = {address: _try(address) for address in addresses}
    while True:
        time.sleep(interval_seconds)
        after = {address: _try(address) for address in addresses}
        told: dict[str, Figures | str] = {}
        for address in addresses:
            old, new = before[address], after[address]
            told[address] = new if isinstance(new, str) else figures(new if isinstance(old, str) else old, new)
        show(("" if once else "\x1b[2J\x1b[H") + render(told))
        if once:
            return EXIT_STATUS[3] if any(isinstance(each, str) for each in told.values()) else 0
        before = after


def _try(address: str) -> Sample | str:
    try:
        return fetch(address)
    except (DataError, ResourceError) as error:
        return error.message
