"""Conformal risk control: what is promised holds on new inputs."""

from __future__ import annotations

import math

import numpy as np
from ecompile_workers.equivalence.risk import META, calibrate, from_meta


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances, and errors that are large far away: a third of the rows beyond distance 8."""
    scores = rng.chisquare(4, count)
    errors = np.where((scores > 8) & (rng.random(count) < 0.7), 1.0, 1e-6)
    return scores, errors


def test_share_of_inputs_answered_beyond_the_limit_is_as_promised() -> None:
    """Averaged over 300 calibrations, as the theorem says; and inputs are not refused for nothing."""
    rng = np.random.default_rng(0)
    risks, answered = [], []
    for _ in range(300):
        threshold = calibrate(*draw(rng, 200), limit=1e-3).threshold(0.03)
        scores, errors = draw(rng, 500)
        risks.append(((scores <= threshold) & (errors > 1e-3)).mean())
        answered.append((scores <= threshold).mean())
    assert 0.015 < np.mean(risks) <= 0.03
    assert np.mean(answered) > 0.9


def test_module_without_violations_may_answer_at_any_distance() -> None:
    assert calibrate(np.arange(200.0), np.zeros(200), limit=1e-3).threshold(0.01) == math.inf


def test_sample_too_small_to_show_the_risk_forbids_only_what_it_saw_fail() -> None:
    few = np.arange(5.0)
    assert calibrate(few, np.zeros(5), limit=1e-3).threshold(0.01) == math.inf
    assert calibrate(few, np.full(5, 1.0), limit=1e-3).threshold(0.01) < 0


def test_error_that_is_not_a_number_is_a_violation() -> None:
    found = calibrate(np.array([1.0, 2.0]), np.array([np.nan, 0.0]), limit=1e-3)
    assert found.violations == (1.0,)


def test_bundle_round_trip_and_older_bundles() -> None:
    found = calibrate(*draw(np.random.default_rng(1), 100), limit=1e-3)
    assert from_meta({META: found.to_meta()}) == found
    for meta in ({}, {META: {"version": 99}}, {META: {"version": 1}}, {META: 3}):
        assert from_meta(meta) is None
