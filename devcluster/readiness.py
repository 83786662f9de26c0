"""Waiting: does an API server answer, and polling with a deadline."""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .console import DevclusterError

POLL_SECONDS = 0.1


def api_answers(server: str, authority: Path) -> bool:
    """Whether an API server says that it is ready. A proxy that the environment names is not asked."""
    try:
        context = ssl.create_default_context(cafile=str(authority))
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with direct.open(f"{server}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def wait_until(condition: Callable[[], bool], *, seconds: float, otherwise: Callable[[], str]) -> None:
    """Poll until the condition holds.

    Raises DevclusterError with what `otherwise` says where it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DevclusterError(otherwise())
        time.sleep(POLL_SECONDS)
