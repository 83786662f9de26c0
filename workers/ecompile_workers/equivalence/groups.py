"""Does a module answer one group worse than another? Rates by group of answers that differ from the network's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, DataError
from numpy.typing import NDArray

from .metrics import Outputs, row_delta


@dataclass(frozen=True, kw_only=True)
class GroupRate:
    """One group."""

    group: str
    rows: int
    """Held-out rows that the module answered."""
    differing: float
    """Share with a relative error beyond the limit, or another largest output."""
    error: float | None = None
    """Share that the module answers other than labelled; None where there are no labels, or no classes."""
    neural_error: float | None = None
    """The same of the network."""


@dataclass(frozen=True, kw_only=True)
class GroupFindings:
    """Rates of all groups, and the largest differences between two."""

    groups: tuple[GroupRate, ...]
    gap: float
    """Of `differing`."""
    widened: float | None
    """How much larger the gap of `error` is than that of `neural_error`; None without labels."""


def by_group(
    original: Outputs,
    compiled: Outputs,
    members: NDArray[np.str_],
    *,
    wanted: Sequence[str],
    limit: float,
    labels: NDArray[Any] | None = None,
) -> GroupFindings:
    """Rates of the groups `wanted` over answered rows of outputs [rows, outputs]; `members` and `labels`: [rows].

    Raises DataError where a group has no row.
    """
    classes = original.shape[1] > 1
    differs = row_delta(original, compiled) > limit
    if classes:
        differs = differs | (original.argmax(axis=1) != compiled.argmax(axis=1))
    labelled = labels is not None and classes and labels.ndim == 1
    rates = []
    for group in wanted:
        mine = members == group
        if not mine.any():
            raise DataError(
                Code.DATA_EMPTY,
                f"spec.equivalence.fairness.groups: no answered row of the data is in group {group!r}; add such rows "
                "to the held-out file, or leave the group out.",
            )
        error = neural_error = None
        if labelled:
            assert labels is not None
            error = float((compiled[mine].argmax(axis=1) != labels[mine]).mean())
            neural_error = float((original[mine].argmax(axis=1) != labels[mine]).mean())
        rates.append(
            GroupRate(
                group=group,
                rows=int(mine.sum()),
                differing=float(differs[mine].mean()),
                error=error,
                neural_error=neural_error,
            )
        )
    widened = None
    if labelled:
        widened = _spread([rate.error for rate in rates]) - _spread([rate.neural_error for rate in rates])
    return GroupFindings(groups=tuple(rates), gap=_spread([rate.differing for rate in rates]), widened=widened)


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known)
