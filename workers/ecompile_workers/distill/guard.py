"""The box of inputs that a module answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..codegen.abi import GuardBox

MARGIN = 0.25
"""Each side is widened by this share of the largest feature range: wide enough for ordinary inputs not seen in
calibration, narrow enough to refuse inputs of another scale. Exact code is right beyond it as well; the guard is for
what changes."""

TIGHT = 0.0
"""For code that was only ever compared on rows like those of the calibration."""


def box(calibration: NDArray[np.float32], integers: Sequence[slice] = (), *, margin: float = MARGIN) -> GuardBox:
    """The widened range of each feature over calibration rows [rows, features]; finite, however large the values.

    `integers`: columns with numbers of words and the like. Those of one input have one range, that of all of them, and
    nothing is added to it: beyond the last word there is none. `margin`: as `MARGIN`.
    """
    lower, upper = calibration.min(axis=0).astype(np.float64), calibration.max(axis=0).astype(np.float64)
    real = np.ones(len(lower), dtype=bool)
    for columns in integers:
        real[columns] = False
        lower[columns], upper[columns] = lower[columns].min(), upper[columns].max()
    if real.any():
        largest = float((upper - lower)[real].max())
        widened = margin * (largest if largest > 0 else max(1.0, float(np.abs(upper[real]).max())))
        lower[real] -= widened
        upper[real] += widened
    limit = float(np.finfo(np.float32).max)
    return GuardBox(
        lower=np.maximum(lower, -limit).astype(np.float32), upper=np.minimum(upper, limit).astype(np.float32)
    )
