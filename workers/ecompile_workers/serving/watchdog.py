"""Ends the process when a module does not come back, so that the pod restarts without it (see journal.py).

Two cases: the event loop itself is stuck (a module that holds the interpreter), which only a thread outside of the
interpreter can see, faulthandler's; and a call that a thread has been in for too long, which the event loop sees.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from .journal import Journal, end_process

CHECK_SECONDS: Final = 1.0
HANG_SECONDS: Final = 20.0
"""A call of a module takes microseconds; a large batch, a few seconds on a starved machine."""


@dataclass
class Overdue:
    """Which calls have been in progress for too long. Pure but for what it is told."""

    hang_seconds: float
    _since: dict[tuple[int, int, str], float] = field(default_factory=dict)

    def look(self, running: dict[int, tuple[int, str]], now: float) -> str | None:
        """The digest of a module that has been in one call for `hang_seconds`, of `running` as the journal gives it."""
        calls = {(slot, finished, digest) for slot, (finished, digest) in running.items()}
        self._since = {call: self._since.get(call, now) for call in calls}
        for call, since in sorted(self._since.items()):
            if now - since >= self.hang_seconds:
                return call[2]
        return None


async def watch(
    journal: Journal,
    *,
    hang_seconds: float = HANG_SECONDS,
    end: Callable[[str, float], None] = end_process,
) -> None:
    """Look every second, until cancelled."""
    overdue = Overdue(hang_seconds)
    loop = asyncio.get_running_loop()
    pause = min(CHECK_SECONDS, hang_seconds / 4)
    try:
        while True:
            faulthandler.dump_traceback_later(hang_seconds + pause, exit=True)
            digest = overdue.look(journal.running(), loop.time())
            if digest is not None:
                end(digest, hang_seconds)
            await asyncio.sleep(pause)
    finally:
        faulthandler.cancel_dump_traceback_later()
