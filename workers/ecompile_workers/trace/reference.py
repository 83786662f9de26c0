"""What a segment's calibration inputs look like, and how far another input is from them.

The score is the squared Mahalanobis distance under a shrunk covariance (Ledoit and Wolf, "A well-conditioned estimator
for large-dimensional covariance matrices", 2004) of standardised features, of which the `MAX_RANK` largest directions
are kept and the others share their mean variance (Tipping and Bishop, "Probabilistic principal component analysis",
1999). Half of the sample fits it, the other half is scored: ranks among those scores are exact for any distribution
(split conformal; Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005). Pure.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

VERSION: Final = 1
LEVEL: Final = 0.95
"""A row further away than this share of the calibration sample is called far."""
MAX_RANK: Final = 64
"""Directions kept: a score costs features * MAX_RANK multiply-adds."""
MAX_ROWS: Final = 2048
"""Rows used at most; 1,024 fit, 1,024 are ranked."""
MIN_ROWS: Final = 40
MAX_FEATURES: Final = 65_536
"""Above this nothing is fitted: the sums would take longer than the profile Job's other work."""
FLOOR: Final = 0.1
"""Least standard deviation of a feature, as a share of the median one: what never varied in the sample may vary a
little."""
ARRAYS: Final = ("mean", "scale", "directions", "precisions", "scores")

Rows = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A fitted sample."""

    mean: Vector
    """[features]"""
    scale: Vector
    """[features] standard deviations, floored."""
    directions: Vector
    """[rank, features], orthonormal, of standardised features."""
    precisions: Vector
    """[rank] 1 / variance along each direction."""
    rest: float
    """1 / variance in every other direction."""
    scores: Vector
    """Of the half that did not fit, ascending."""

    @property
    def features(self) -> int:
        """Values per row."""
        return len(self.mean)

    @property
    def threshold(self) -> float:
        """Score above which a row is far; infinite where the sample is too small to say."""
        return conformal_quantile(self.scores, LEVEL)

    def score(self, rows: Rows) -> Vector:
        """Squared distance of each row [rows, features]; infinite for rows that are not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            centred = (rows.astype(np.float64) - self.mean) / self.scale
            along = centred @ self.directions.T
            squares = along * along
            left = np.maximum(np.einsum("ij,ij->i", centred, centred) - squares.sum(axis=1), 0.0)
            found = squares @ self.precisions + self.rest * left
        return np.where(np.isfinite(found), found, np.inf)

    def far(self, rows: Rows) -> float:
        """Share of the rows that are far."""
        return float((self.score(rows) > self.threshold).mean())

    def to_bytes(self) -> bytes:
        """A .npz file that `read` takes."""
        buffer = io.BytesIO()
        np.savez(buffer, version=VERSION, rest=self.rest, **{name: getattr(self, name) for name in ARRAYS})
        return buffer.getvalue()


def conformal_quantile(scores: Vector, level: float) -> float:
    """The smallest score that a new, exchangeable one exceeds with a probability of at most 1 - level: the
    ceil((n + 1) level)-th of n ascending scores; infinite where n is too small."""
    rank = math.ceil((len(scores) + 1) * level)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def fit(rows: Rows) -> Reference | None:
    """The reference of calibration rows [rows, features]; None where there are too few rows or too many features."""
    if len(rows) < MIN_ROWS or rows.shape[1] > MAX_FEATURES:
        return None
    fitted, ranked = (half.astype(np.float64) for half in halves(rows))
    mean, deviation = fitted.mean(axis=0), fitted.std(axis=0)
    spread = float(np.median(deviation[deviation > 0])) if (deviation > 0).any() else 1.0
    scale = np.maximum(deviation, FLOOR * spread)
    centred = (fitted - mean) / scale
    count, features = centred.shape
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = np.zeros(features)
    variances[: len(singular)] = singular**2 / count
    average = float(variances.mean())
    shrinkage = _shrinkage(centred, variances, average)
    shrunk = (1.0 - shrinkage) * variances + shrinkage * average
    rank = min(MAX_RANK, len(singular))
    left = float(shrunk[rank:].mean()) if features > rank else 1.0
    tiny = 1e-9 * max(average, 1e-9)
    found = Reference(
        mean=mean,
        scale=scale,
        directions=directions[:rank],
        precisions=1.0 / np.maximum(shrunk[:rank], tiny),
        rest=1.0 / max(left, tiny) if features > rank else 0.0,
        scores=np.zeros(0),
    )
    scores = np.sort(found.score(ranked.astype(np.float32)))
    return Reference(
        mean=mean,
        scale=scale,
        directions=found.directions,
        precisions=found.precisions,
        rest=found.rest,
        scores=scores,
    )


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """Of at most MAX_ROWS rows, evenly picked: those that fit a reference, and those that are ranked by it."""
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(np.int64)]
    return picked[0::2], picked[1::2]


def _shrinkage(centred: Vector, variances: Vector, average: float) -> float:
    """Ledoit and Wolf's optimal weight of the scaled identity, from the eigenvalues of the sample covariance."""
    count, features = centred.shape
    dispersion = float(((variances - average) ** 2).sum()) / features
    fourth = float((np.einsum("ij,ij->i", centred, centred) ** 2).sum()) / count
    error = (fourth - float((variances**2).sum())) / (count * features)
    return min(1.0, max(0.0, error) / dispersion) if dispersion > 0 else 1.0


def read(content: bytes, *, name: str) -> Reference:
    """What `to_bytes` wrote.

    Raises DataError naming the file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if int(archive["version"]) != VERSION:
                raise DataError(
                    Code.DATA_MALFORMED,
                    f"{name}: version {int(archive['version'])} of the calibration reference; this program reads "
                    f"{VERSION}. Profile the model again.",
                )
            values: dict[str, Any] = {each: archive[each].astype(np.float64) for each in ARRAYS}
            return Reference(rest=float(archive["rest"]), **values)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(Code.DATA_MALFORMED, f"{name}: not a calibration reference: {error}.") from error
