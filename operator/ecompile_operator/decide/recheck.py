"""Validating a module again while it serves: on a schedule, when its validation grows old, when the checker changes.

A pass changes nothing that is served. A refusal rolls back; a Job that fails is tried again, and rolls back in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ecompile_crds.compiledmodule import RolloutStatus
from ecompile_crds.cron import next_time
from ecompile_crds.hybridmodel import Revalidation
from ecompile_crds.names import short_hash

from .clock import from_text

SPREAD_SECONDS = 600
"""Modules whose schedules say the same minute are spread over this time by their names."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """When the next validation is due, and why."""

    at: datetime
    why: str


def next_due(rollout: RolloutStatus, wanted: Revalidation, *, name: str, image: str, now: datetime) -> Due | None:
    """The earliest reason to validate a promoted module again; None where there is none."""
    validated = from_text(rollout.validated_at) or from_text(rollout.since)
    found: list[Due] = []
    if wanted.on_worker_change and rollout.checker and rollout.checker != image:
        found.append(Due(at=now, why=f"the worker image is {image}, it was validated with {rollout.checker}"))
    if validated is not None and wanted.max_age_days is not None:
        found.append(Due(at=validated + timedelta(days=wanted.max_age_days), why="its validation is too old"))
    if validated is not None and wanted.schedule is not None:
        scheduled = next_time(wanted.schedule, validated)
        if scheduled is not None:
            found.append(Due(at=scheduled + _spread(name), why=f"schedule {wanted.schedule}"))
    not_before = from_text(rollout.not_before)
    due = min(found, key=lambda d: (d.at, d.why), default=None)
    if due is not None and not_before is not None and due.at < not_before:
        return Due(at=not_before, why=due.why)
    return due


def _spread(name: str) -> timedelta:
    return timedelta(seconds=int(short_hash(name), 16) % SPREAD_SECONDS)
