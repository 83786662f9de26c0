"""Five-field cron expressions in UTC: minute, hour, day of month, month, day of week (0 and 7 are Sunday)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
YEARS = 5
"""29 February comes round within this time, except over the turn of a century."""


def next_time(expression: str, after: datetime) -> datetime | None:
    """The first time after `after`; None where there is none, such as on 30 February.

    As cron does: where both days are restricted, either suffices. Raises ValueError with a sentence.
    """
    words = expression.split()
    if len(words) != len(FIELDS):
        raise ValueError(f"a schedule has five fields, not {len(words)}")
    minutes, hours, days, months, weekdays = (
        _values(word, name, low, high) for word, (name, low, high) in zip(words, FIELDS, strict=True)
    )
    weekdays = frozenset(day % 7 for day in weekdays)
    either = words[2] != "*" and words[4] != "*"
    start = after.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    midnight = start.replace(hour=0, minute=0)
    for offset in range(YEARS * 366):
        day = midnight + timedelta(days=offset)
        in_month, in_week = day.day in days, (day.weekday() + 1) % 7 in weekdays
        if day.month not in months or not ((in_month or in_week) if either else (in_month and in_week)):
            continue
        times = (day + timedelta(hours=h, minutes=m) for h in sorted(hours) for m in sorted(minutes))
        found = next((time for time in times if time >= start), None)
        if found is not None:
            return found
    return None


def _values(word: str, name: str, low: int, high: int) -> frozenset[int]:
    """Values of one field: `*`, `5`, `1-5`, `*/10`, `1-9/2`, and lists of these."""
    found: set[int] = set()
    for part in word.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        last = last or (str(high) if step else first)
        numbers = (first, last, step or "1")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(f"{name}: {part!r} is not a number, a range or a step")
        begin, end, stride = (int(number) for number in numbers)
        if not (low <= begin <= end <= high) or stride < 1:
            raise ValueError(f"{name}: {part!r} is not between {low} and {high}")
        found.update(range(begin, end + 1, stride))
    return frozenset(found)
