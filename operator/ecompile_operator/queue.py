"""Deduplicating work queue: a key is worked on by one worker at a time, and never lost.

As in client-go: adding a key that waits does nothing; adding one that is being worked on has it worked on again.
Keys that are merely looked at again, all of them after a start for example, wait behind those that have news.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 60.0
BACKLOG_TURN = 4
"""Each fourth key comes from those without news, so that they are reached while news never ends."""


class WorkQueue(Generic[Key]):
    """Keys to work on, now or later. For use from one event loop."""

    def __init__(self, clock: Callable[[], float], *, jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._waiting: dict[Key, float] = {}
        """Ready keys with news, in order of arrival, with their time of arrival."""
        self._backlog: dict[Key, float] = {}
        """Ready keys without news."""
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._sequence = 0
        self._turn = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._backlog)

    def oldest_age_seconds(self) -> float:
        """How long the longest-waiting ready key has waited."""
        first = [next(iter(ready.values())) for ready in (self._waiting, self._backlog) if ready]
        return self._clock() - min(first) if first else 0.0

    def add(self, key: Key) -> None:
        """Work on `key` as soon as a worker is free."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = self._backlog.pop(key, self._clock())
            self._wake.set()

    def add_last(self, key: Key) -> None:
        """Work on `key` when no other key has news."""
        if key not in self._active and key not in self._waiting:
            self._due.pop(key, None)
            self._backlog.setdefault(key, self._clock())
            self._wake.set()

    def add_after(self, key: Key, delay_seconds: float) -> None:
        """Work on `key` in `delay_seconds`; an earlier date already set is kept."""
        if delay_seconds <= 0:
            self.add(key)
            return
        due = self._clock() + delay_seconds
        if key in self._waiting or key in self._backlog or self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._later, (due, self._sequence, key))
        self._wake.set()

    def _promote_due(self) -> float | None:
        """Move what is due to the ready keys; seconds until the next date, if any."""
        now = self._clock()
        while self._later:
            due, _, key = self._later[0]
            if self._due.get(key) != due:
                heapq.heappop(self._later)
            elif due <= now:
                heapq.heappop(self._later)
                self.add(key)
            else:
                return due - now
        return None

    async def get(self) -> Key:
        """The next key; the caller must call `done` or `failed` with it."""
        while True:
            delay = self._promote_due()
            self._turn += 1
            first, second = self._waiting, self._backlog
            if self._turn % BACKLOG_TURN == 0:
                first, second = second, first
            for ready in (first, second):
                if ready:
                    key = next(iter(ready))
                    del ready[key]
                    self._active.add(key)
                    return key
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    def done(self, key: Key) -> None:
        """`key` was worked on without a fault."""
        self._failures.pop(key, None)
        self._finish(key)

    def failed(self, key: Key) -> float:
        """`key` could not be worked on: again after a growing wait. Returns the wait in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        longest: float = min(BASE_BACKOFF_SECONDS * 2.0 ** min(count, 16), MAX_BACKOFF_SECONDS)
        wait = longest * (0.5 + self._jitter() / 2)
        self._finish(key)
        self.add_after(key, wait)
        return wait

    def _finish(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
