"""Agreement per class: of the rows that the original puts into a class, how many the module puts there too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import Outputs, clopper_pearson_upper


@dataclass(frozen=True, kw_only=True)
class ClassAgreement:
    """One class: the index of the original's largest output."""

    index: int
    rows: int
    agreed: int
    disagreement_bound: float
    """Upper bound of the share of such inputs that the module classifies otherwise, at the stated confidence; each
    bound holds on its own, not all of them together."""

    @property
    def agreement(self) -> float:
        return self.agreed / self.rows


def per_class(original: Outputs, compiled: Outputs, *, confidence: float) -> tuple[ClassAgreement, ...]:
    """Classes that occur, in order, for outputs [rows, outputs]; none for a single output, which is no class."""
    if original.shape[1] < 2:
        return ()
    expected, found = original.argmax(axis=1), compiled.argmax(axis=1)
    made = []
    for index in np.unique(expected):
        same = found[expected == index] == index
        rows, agreed = len(same), int(same.sum())
        bound = clopper_pearson_upper(rows - agreed, rows, confidence)
        made.append(ClassAgreement(index=int(index), rows=rows, agreed=agreed, disagreement_bound=bound))
    return tuple(made)
