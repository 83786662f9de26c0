"""The calibration reference against scikit-learn's estimator, and its ranks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.trace import reference
from sklearn.covariance import LedoitWolf

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=(8, 8))


def draw(count: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 8)) @ MIXING + 3.0).astype(np.float32)


def fitted(rows: np.ndarray) -> reference.Reference:
    found = reference.fit(rows)
    assert found is not None
    return found


def test_scores_are_mahalanobis_distances_under_ledoit_wolf() -> None:
    """Full rank: the shrunk covariance of standardised features, as scikit-learn has it."""
    rows = draw(200)
    found = fitted(rows)
    half = (rows[0::2].astype(np.float64) - found.mean) / found.scale
    theirs = LedoitWolf(assume_centered=True).fit(half)
    probe = draw(50, seed=2)
    expected = theirs.mahalanobis((probe - found.mean) / found.scale)
    assert found.score(probe) == pytest.approx(expected, rel=1e-6)


def test_one_in_twenty_new_inputs_is_far() -> None:
    """Split conformal: 5 % of exchangeable rows, whatever their distribution."""
    found = fitted(draw(2000))
    assert found.far(draw(4000, seed=3)) == pytest.approx(0.05, abs=0.02)
    assert found.far(draw(500, seed=3) + np.float32(20.0)) == 1.0


def test_feature_that_never_varied_may_vary_a_little() -> None:
    rows = draw(400)
    rows[:, 3] = 1.0
    found = fitted(rows)
    near, away = draw(200, seed=4), draw(200, seed=4)
    near[:, 3], away[:, 3] = 1.0, 50.0
    assert found.far(near) < 0.2 and found.far(away) == 1.0


def test_more_features_than_rows() -> None:
    """The directions that the sample does not show share their variance."""
    rows = np.random.default_rng(5).normal(size=(100, 300)).astype(np.float32)
    found = fitted(rows)
    assert found.directions.shape == (reference.MAX_RANK - 14, 300) and found.rest > 0
    assert found.far(np.random.default_rng(6).normal(size=(400, 300)).astype(np.float32)) < 0.2


def test_rows_that_are_not_finite_are_far() -> None:
    rows = draw(3)
    rows[0, 0], rows[1, 1], rows[2, 2] = np.nan, np.inf, -np.inf
    assert fitted(draw(100)).far(rows) == 1.0


def test_too_few_rows_give_no_reference() -> None:
    assert reference.fit(draw(reference.MIN_ROWS - 1)) is None


def test_file_round_trip_and_refusals() -> None:
    found = fitted(draw(100))
    back = reference.read(found.to_bytes(), name="r.npz")
    probe = draw(20, seed=9)
    assert (back.score(probe) == found.score(probe)).all() and back.threshold == found.threshold
    assert found.to_bytes() == fitted(draw(100)).to_bytes()
    with pytest.raises(DataError, match=r"r\.npz: not a calibration reference"):
        reference.read(b"nonsense", name="r.npz")
    later = io.BytesIO()
    np.savez(later, version=99)
    with pytest.raises(DataError, match="version 99"):
        reference.read(later.getvalue(), name="r.npz")
