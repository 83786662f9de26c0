"""Evidence of many pods, multiplied: sooner than one pod's, and no more false alarms than promised (decision 0013)."""

from __future__ import annotations

import random
import statistics

from ecompile_operator.control.evidence import Merger, Wealth
from ecompile_operator.decide.observed import AlertKind
from ecompile_workers.serving.detectors import MeanDetector

LIMIT = 0.05


class Fleet:
    """Pods with a fallback detector each, that report after every `block` observations."""

    def __init__(self, pods: int, *, interval: float = 1e6, block: int = 20) -> None:
        self.detectors = [MeanDetector(limit=LIMIT, interval=interval) for _ in range(pods)]
        self.merger, self.interval, self.block = Merger(), interval, block

    def run(self, rng: random.Random, *, share: float, most: int) -> tuple[int, bool] | None:
        """Observations per pod until the merged evidence alarms, and whether a pod had by then; None without alarm."""
        alone = False
        for seen in range(1, most + 1):
            for detector in self.detectors:
                alone = detector.observe(1.0 if rng.random() < share else 0.0) or alone
            if seen % self.block == 0:
                for index, detector in enumerate(self.detectors):
                    self.merger.take(f"pod-{index}", 1, [wealth(detector)])
                found = self.merger.evidence()
                if found and found[0].e_value >= self.interval:
                    return seen, alone
        return None


def wealth(detector: MeanDetector, *, kind: AlertKind = AlertKind.FALLBACK) -> Wealth:
    told = detector.wealth()
    return Wealth(
        kind=kind,
        detector=3,
        segment=0,
        group="",
        observations=told.observations,
        log_wealth=told.log_wealth,
        mean=told.mean,
        limit=told.limit,
    )


def test_three_pods_together_find_what_none_has_found() -> None:
    """15 % refused under a limit of 5 %: in little more than a third of the time, and in most runs before any
    pod is past its own threshold."""
    rng = random.Random(1)
    together = [Fleet(3).run(rng, share=0.15, most=2000) for _ in range(9)]
    one = [Fleet(1).run(rng, share=0.15, most=4000) for _ in range(9)]
    assert all(found is not None for found in (*together, *one))
    assert sum(found[1] for found in together if found is not None) < len(together) / 2
    delays = [statistics.median(found[0] for found in runs if found is not None) for runs in (together, one)]
    assert delays[0] < 0.6 * delays[1]


def test_false_alarms_are_no_more_frequent_than_promised() -> None:
    """At the limit itself, an interval of 1,000: the time to the first alarm is 1,000 observations or more on average
    (cut off at 2,100, which only makes the average smaller)."""
    rng = random.Random(2)
    times = []
    for _ in range(15):
        found = Fleet(3, interval=1000, block=5).run(rng, share=LIMIT, most=700)
        times.append(3 * (found[0] if found is not None else 700))
    assert statistics.mean(times) >= 1000


def test_report_of_an_older_checkpoint_counts_nothing_twice() -> None:
    """A pod that starts again from an older state: only what is new since then counts."""
    detector, merger = MeanDetector(limit=LIMIT, interval=1e6), Merger()
    for _ in range(10):
        detector.observe(1.0)
    saved = detector.state()
    for _ in range(2):
        detector.observe(1.0)
    merger.take("a", 1, [wealth(detector)])
    before = merger.evidence()
    again = MeanDetector(limit=LIMIT, interval=1e6)
    again.restore(saved)
    merger.take("a", 1, [wealth(again)])
    assert merger.evidence() == before
    again.observe(1.0)
    merger.take("a", 1, [wealth(again)])
    assert merger.evidence()[0].observations == before[0].observations + 1


def test_newer_generation_starts_anew() -> None:
    detector, merger = MeanDetector(limit=LIMIT, interval=1e6), Merger()
    for _ in range(20):
        detector.observe(1.0)
    assert merger.take("a", 1, [wealth(detector)])
    assert merger.evidence()[0].generation == 1
    assert not merger.take("a", 2, [])
    assert merger.evidence() == ()
    assert not merger.take("b", 1, [wealth(detector)])
    assert merger.evidence() == ()


def test_bets_of_another_version_are_left_out() -> None:
    ours, theirs = MeanDetector(limit=LIMIT, interval=1e6), MeanDetector(limit=LIMIT, interval=1e6, bets=(0.5,))
    merger = Merger()
    for _ in range(20):
        ours.observe(1.0)
        theirs.observe(1.0)
    merger.take("a", 1, [wealth(ours)])
    before = merger.evidence()
    merger.take("b", 1, [wealth(theirs)])
    assert merger.evidence() == before
