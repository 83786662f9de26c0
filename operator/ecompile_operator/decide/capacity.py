"""How many Pods the neural path needs while modules are out of service, from what the pods measured.

The rollback itself never waits for them: the routing table changes in the same decision that asks for more Pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ecompile_crds.compiledmodule import Stage
from ecompile_crds.hybridmodel import Serving

from .decision import ModelEvent
from .draft import Draft
from .gate import MIN_LATENCY_SAMPLES
from .observed import PodReport
from .stages import reports_of

USED_SHARE = 0.7
"""Share of a Pod's processors that requests may use: above it waiting times grow fast (M/M/1: 1 / (1 - 0.7) = 3.3)."""
OUT_OF_SERVICE = (Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.REVALIDATING, Stage.HELD)
COMING_BACK = (Stage.VALIDATED, Stage.SHADOW, Stage.CANARY)


@dataclass(frozen=True, kw_only=True)
class NeuralLoad:
    """What all requests cost on the neural path."""

    requests_per_second: float
    seconds_per_request: float
    """Processor time."""

    def replicas(self, cores: float) -> int:
        """Pods of so many processors that carry it."""
        return math.ceil(self.requests_per_second * self.seconds_per_request / (USED_SHARE * cores))


def neural_load(reports: Iterable[PodReport], segments: Iterable[int]) -> NeuralLoad | None:
    """From the pods' counters: requests per second of all of them, and the slowest pod's median neural time of each
    segment. None where a segment's time is not known: then nothing is concluded."""
    reports = tuple(reports)
    seconds = 0.0
    for segment in segments:
        known = [
            c.neural_p50_seconds
            for report in reports
            for c in report.counters
            if c.segment == segment and c.latency_samples >= MIN_LATENCY_SAMPLES and c.neural_p50_seconds > 0
        ]
        if not known:
            return None
        seconds += max(known)
    requests = sum(report.requests_per_second for report in reports)
    if not (math.isfinite(requests) and math.isfinite(seconds)) or requests <= 0 or seconds <= 0:
        return None
    return NeuralLoad(requests_per_second=requests, seconds_per_request=seconds)


def cores(serving: Serving) -> float:
    """Processors of one Pod: what it requests, else what it is limited to, else one."""
    for resources in (serving.resources.requests, serving.resources.limits):
        found = _processors(resources.get("cpu"))
        if found is not None:
            return found
    return 1.0


def _processors(quantity: str | int | None) -> float | None:
    """A Kubernetes quantity of processors, such as `500m` or `2`; None where it is none that can be read."""
    if quantity is None:
        return None
    text = str(quantity)
    scale = 1.0
    if text.endswith("m"):
        text, scale = text[:-1], 1e-3
    try:
        found = float(text) * scale
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None


def usual_replicas(serving: Serving) -> int:
    """Least number of Pods without a rollback."""
    return serving.autoscaling.min_replicas if serving.autoscaling is not None else serving.replicas


def most_replicas(serving: Serving) -> int:
    """Most Pods that a rollback may ask for."""
    if serving.autoscaling is not None:
        return serving.autoscaling.max_replicas
    return serving.rollback_max_replicas or 2 * serving.replicas


def least_replicas(draft: Draft) -> int:
    """Least number of Pods that the neural path needs now; 0 where the usual number does.

    Raised when modules go out of service and whenever the load measured since asks for more; kept until they are all
    promoted again, so that a rollout finds the neural path as it was.
    """
    before = draft.observed.status.neural_replicas
    if draft.serving is None:
        return 0
    stages = [draft.stage(m) for m in draft.of_life(draft.serving.key)]
    out = any(stage in OUT_OF_SERVICE for stage in stages)
    if not out and not (before and any(stage in COMING_BACK for stage in stages)):
        return 0
    serving = draft.spec.serving
    usual, most = usual_replicas(serving), most_replicas(serving)
    load = neural_load(reports_of(draft, draft.serving.key), [s.index for s in draft.serving.segments]) if out else None
    needed = load.replicas(cores(serving)) if load is not None else 0
    least = min(max(before, needed), most)
    if least <= usual:
        least = 0
    if load is not None and needed > max(before, usual) and (least > before or needed > most):
        _tell(draft, load, needed=needed, least=max(least, usual), most=most, changed=least != before)
    return least


def _tell(draft: Draft, load: NeuralLoad, *, needed: int, least: int, most: int, changed: bool) -> None:
    why = (
        f"the neural path needs {needed} Pods for {load.requests_per_second:.0f} requests/s of "
        f"{load.seconds_per_request * 1e3:.3g} ms each"
    )
    if needed > most:
        autoscaled = draft.spec.serving.autoscaling is not None
        field = "spec.serving.autoscaling.maxReplicas" if autoscaled else "spec.serving.rollbackMaxReplicas"
        why += f"; {field} allows {most}, and Pods refuse what is too much"
        draft.notes.append(why)
    if changed:
        draft.events.append(
            ModelEvent(
                type="Warning" if needed > most else "Normal",
                reason="NeuralScaled",
                message=f"{why}: {least} from now on",
            )
        )
