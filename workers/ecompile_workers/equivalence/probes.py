"""Counterfactual probes: inputs made to stand where a module is most likely to be wrong.

Guard borders: test rows with one feature moved onto a side of the guard's box (the module must answer, and agree), and
one float32 step beyond it (the module must refuse). Decision borders: between two rows of different classes the
original's border is found by bisection; the module is asked on both sides of it, and its own border is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..codegen.abi import GuardBox

Rows = NDArray[np.float32]
Numbers = NDArray[np.float64]
Original = Callable[[Rows], Rows]
Answer = Callable[[Rows], tuple[Rows, NDArray[np.bool_]]]
"""Rows -> outputs, and which rows were answered."""
FEATURES = 128
"""Sides are probed of so many features, drawn at random from more."""
PAIRS = 48
STEPS = 24
"""Halvings: a border is found to 6e-8 of the way between two rows, what float32 resolves."""
OFFSETS = (1e-3, 1e-2)
"""Distances from the border, as a share of the way, at which both are asked."""


@dataclass(frozen=True, kw_only=True)
class GuardProbes:
    """Rows on the sides of a box, and just outside of it."""

    inside: Rows
    outside: Rows


@dataclass(frozen=True, kw_only=True)
class DecisionFindings:
    """What was found near the borders between classes."""

    pairs: int
    """Borders that were found."""
    probes: int
    """Points beside them that the module answered."""
    agreed: int
    excused: int
    """Points at which the module decides otherwise, but the original's own margin is within the tolerance."""
    flips: int
    """The same with a larger margin: violations."""
    worst_margin: float
    """The original's largest margin at a point where the module decides otherwise."""
    border_shift: float
    """Largest distance between the original's border and the module's, as a share of the way between the two rows."""


def guard_probes(rows: Rows, guard: GuardBox, *, seed: int) -> GuardProbes:
    """For up to 128 features, both sides: a row of `rows` (cut to the box) with that feature on it, and beyond it."""
    rng = np.random.default_rng(seed)
    lower, upper = guard.lower.reshape(-1), guard.upper.reshape(-1)
    features = np.arange(len(lower))
    if len(features) > FEATURES:
        features = np.sort(rng.choice(features, FEATURES, replace=False))
    inside, outside = [], []
    for side, away in ((lower, -np.inf), (upper, np.inf)):
        base = np.clip(rows[rng.integers(len(rows), size=len(features))], lower, upper)
        base[np.arange(len(features)), features] = side[features]
        beyond = base.copy()
        with np.errstate(over="ignore"):  # beyond the largest float there is no row
            beyond[np.arange(len(features)), features] = np.nextafter(side[features], np.float32(away))
        inside.append(base)
        outside.append(beyond[np.isfinite(beyond).all(axis=1)])
    return GuardProbes(inside=np.concatenate(inside), outside=np.concatenate(outside))


def decision_probes(
    answer: Answer, original: Original, rows: Rows, *, tolerance: float, seed: int
) -> DecisionFindings | None:
    """Ask both sides of the original's borders; `tolerance` is a share of the largest output (at least 1).

    None where there are no two classes among the rows.
    """
    expected = original(rows)
    if expected.shape[1] < 2:
        return None
    pairs = _pairs(expected.argmax(axis=1), seed)
    if not len(pairs):
        return None
    start, stop = rows[pairs[:, 0]].astype(np.float64), rows[pairs[:, 1]].astype(np.float64)
    first = expected[pairs[:, 0]].argmax(axis=1)
    border, _ = _bisect(lambda x: (original(x), np.ones(len(x), dtype=bool)), start, stop, first)
    own, known = _bisect(answer, start, stop, first)
    places = np.concatenate([border + sign * offset for offset in OFFSETS for sign in (-1, 1)])
    points = _between(np.tile(start, (4, 1)), np.tile(stop, (4, 1)), np.clip(places, 0.0, 1.0))
    wanted = original(points).astype(np.float64)
    found, answered = answer(points)
    ours = found.argmax(axis=1)
    margin = wanted.max(axis=1) - wanted[np.arange(len(wanted)), ours]
    differs = answered & (ours != wanted.argmax(axis=1))
    slack = 2 * tolerance * max(1.0, float(np.abs(wanted).max()))
    return DecisionFindings(
        pairs=len(pairs),
        probes=int(answered.sum()),
        agreed=int((answered & ~differs).sum()),
        excused=int((differs & (margin <= slack)).sum()),
        flips=int((differs & (margin > slack)).sum()),
        worst_margin=float(margin[differs].max(initial=0.0)),
        border_shift=float(np.abs(own - border)[known].max(initial=0.0)),
    )


def _pairs(classes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Up to 48 pairs [pairs, 2] of rows of different classes."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(classes), size=(PAIRS * 8, 2))
    return np.asarray(drawn[classes[drawn[:, 0]] != classes[drawn[:, 1]]][:PAIRS])


def _between(start: Numbers, stop: Numbers, place: Numbers) -> Rows:
    return np.ascontiguousarray(start + (stop - start) * place[:, None], dtype=np.float32)


def _bisect(
    answer: Answer, start: Numbers, stop: Numbers, first: NDArray[np.int64]
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Where on the way from `start` to `stop` the class stops being `first`; and where all steps were answered."""
    low, high = np.zeros(len(start)), np.ones(len(start))
    known = np.ones(len(start), dtype=bool)
    for _ in range(STEPS):
        middle = (low + high) / 2
        outputs, answered = answer(_between(start, stop, middle))
        known &= answered
        same = outputs.argmax(axis=1) == first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return (low + high) / 2, known
