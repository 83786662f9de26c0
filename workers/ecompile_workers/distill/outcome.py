"""What a strategy answers where it has no replacement."""

from __future__ import annotations

from dataclasses import dataclass

from ecompile_crds.jobs import CandidateReport


@dataclass(frozen=True, kw_only=True)
class Declined:
    """Why a strategy, or all of them, leave a segment as it is; a sentence without its full stop."""

    reason: str
    candidates: tuple[CandidateReport, ...] = ()
    """What was measured of each strategy before all of them were declined."""
