"""Durations for people."""

from __future__ import annotations

from datetime import datetime

from ecompile_operator.decide.clock import from_text


def duration(seconds: float) -> str:
    """Such as `45s`, `12m`, `3h20m`, `5d`: two units at most, as kubectl shows ages."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        rest = whole % 60
        return f"{whole // 60}m{rest}s" if whole < 600 and rest else f"{whole // 60}m"
    if whole < 172_800:
        rest = whole % 3600 // 60
        return f"{whole // 3600}h{rest}m" if rest else f"{whole // 3600}h"
    return f"{whole // 86_400}d"


def age(text: str, now: datetime) -> str:
    """Time since an RFC 3339 text; empty where there is none."""
    then = from_text(text)
    return duration((now - then).total_seconds()) if then is not None else ""
