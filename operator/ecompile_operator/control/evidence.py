"""The evidence of many pods as one: each below its threshold, together above it (decision 0013).

Each detector of a pod bets on "the mean is above the limit" with a fixed mixture of bets; its e-values L satisfy
E[L | everything before, in all pods] <= 1 while the mean is within its limit, so their product over pods is a test
supermartingale too (sequential products: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", 2024, section 3; Vovk and Wang, "E-values", 2021, section 4). A report is a block: what a pod's log wealth has
grown by since its last one. Shiryaev and Roberts over blocks, M_b = (M_b + 1) exp(growth of bet b), averaged over bets,
has an expected number of *blocks* before it reaches c of at least c; a block has one observation or more, so that holds
for observations. Products beat sums: three pods that see one change need about a third of the time.

In memory only: after a restart of the operator the evidence starts anew, which delays an alarm and cannot cause one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..decide.observed import AlertKind, MergedEvidence

CEILING = 1e200
WAKE_FROM = 1e3
"""The least falseAlarmInterval that a spec may ask for: below it nothing is decided."""

Key = tuple[int, int, str]
"""Segment, detector, group."""


@dataclass(frozen=True, kw_only=True)
class Wealth:
    """One detector of one pod, as control.proto DetectorEvidence has it: sums since the generation came into force."""

    kind: AlertKind
    detector: int
    segment: int
    group: str
    observations: int
    log_wealth: Sequence[float]
    mean: float
    limit: float


@dataclass
class _Test:
    """One test over all pods."""

    kind: AlertKind
    limit: float
    values: list[float]
    seen: dict[str, Wealth] = field(default_factory=dict)
    """By pod, what it reported last."""
    observations: int = 0
    sum: float = 0.0
    pods: set[str] = field(default_factory=set)

    @property
    def e_value(self) -> float:
        return sum(self.values) / len(self.values) if self.values else 0.0

    def take(self, pod: str, now: Wealth) -> None:
        before = self.seen.get(pod)
        self.seen[pod] = now
        if before is None:
            before = Wealth(
                kind=now.kind,
                detector=now.detector,
                segment=now.segment,
                group=now.group,
                observations=0,
                log_wealth=(0.0,) * len(now.log_wealth),
                mean=0.0,
                limit=now.limit,
            )
        more = now.observations - before.observations
        comparable = len(now.log_wealth) == len(before.log_wealth) == len(self.values) and now.limit == self.limit
        if more <= 0 or not comparable:
            return  # the pod went back to an older checkpoint, or has another version's bets: its next growth counts
        self.pods.add(pod)
        self.observations += more
        self.sum += now.mean * now.observations - before.mean * before.observations
        for position, value in enumerate(self.values):
            growth = now.log_wealth[position] - before.log_wealth[position]
            self.values[position] = min((value + 1.0) * math.exp(min(growth, 400.0)), CEILING)


class Merger:
    """Merged tests of one model, in the newest routing generation that any of its pods has in force."""

    def __init__(self) -> None:
        self._generation = 0
        self._tests: dict[Key, _Test] = {}

    def take(self, pod: str, generation: int, wealth: Sequence[Wealth]) -> bool:
        """A pod's report. True where a decision may depend on what has grown."""
        if generation < self._generation:
            return False
        if generation > self._generation:
            self._generation, self._tests = generation, {}
        grown = False
        for each in wealth:
            key = (each.segment, each.detector, each.group)
            test = self._tests.get(key)
            if test is None:
                test = _Test(kind=each.kind, limit=each.limit, values=[0.0] * len(each.log_wealth))
                self._tests[key] = test
            before = test.e_value
            test.take(pod, each)
            grown = grown or _rung(test.e_value) > _rung(before)
        return grown

    def evidence(self) -> tuple[MergedEvidence, ...]:
        """Tests that are worth a decision, in order."""
        return tuple(
            MergedEvidence(
                kind=test.kind,
                segment=segment,
                generation=self._generation,
                e_value=test.e_value,
                observations=test.observations,
                pods=len(test.pods),
                mean=test.sum / test.observations,
                limit=test.limit,
                group=group,
            )
            for (segment, _, group), test in sorted(self._tests.items(), key=lambda item: item[0])
            if test.observations and test.e_value >= WAKE_FROM
        )


def _rung(value: float) -> int:
    """Four to a decade, so that a threshold passed is looked at soon, and no report wakes the model for nothing."""
    return int(4 * math.log10(value)) if value >= WAKE_FROM else 0
