"""Times as text and back. No clock is read here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def to_text(time: datetime) -> str:
    """RFC 3339 with milliseconds, UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def to_condition_time(time: datetime) -> str:
    """metav1.Time: RFC 3339 with whole seconds, UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> datetime | None:
    """The time, or None where the text is empty."""
    return datetime.fromisoformat(text) if text else None


def seconds_since(text: str, now: datetime) -> float:
    """Seconds from `text` to `now`; 0 where the text is empty."""
    time = from_text(text)
    return 0.0 if time is None else (now - time).total_seconds()


def backoff(base_seconds: float, failures: int, *, limit_seconds: float = 3600.0) -> timedelta:
    """`base` doubled with each failure, never above the limit."""
    return timedelta(seconds=min(base_seconds * 2 ** min(failures, 20), limit_seconds))
