"""Maintenance windows: when a rollout may start or move on. Times are UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ecompile_crds.hybridmodel import Day, Window

DAYS = tuple(Day)
"""In the order of datetime.weekday()."""


def _openings(window: Window, now: datetime) -> list[datetime]:
    """Starts of the window around `now`: as far back as a window can last, and a week ahead."""
    hour, minute = (int(part) for part in window.start.split(":"))
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight + timedelta(days=day, hours=hour, minutes=minute) for day in range(-8, 9)]
    return [start for start in starts if not window.days or DAYS[start.weekday()] in window.days]


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Whether any window is open; always where there is none."""
    return not windows or any(
        start <= now < start + timedelta(minutes=window.duration_minutes)
        for window in windows
        for start in _openings(window, now)
    )


def next_opening(windows: Sequence[Window], now: datetime) -> datetime:
    """When the next window opens; `now` where one is open."""
    if is_open(windows, now):
        return now
    return min(start for window in windows for start in _openings(window, now) if start > now)
