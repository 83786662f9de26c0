"""/healthz and /readyz: is the event loop alive, and has the API server been heard of?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

MAX_LAG_SECONDS = 10.0
"""A loop that was blocked for this long is not doing its work."""
TICK_SECONDS = 1.0
MAX_WATCH_AGE_SECONDS = 600.0
"""Watches end after four minutes and bring bookmarks every minute; ten minutes of silence are a fault."""
ANSWERS_SECONDS = 30.0
"""The API server counts as answering if it did so within this time; the Lease is renewed every two seconds."""


class Health:
    """Answers the kubelet's probes."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tick = clock()
        self._answers = 0
        self._answered_at = clock()
        self.watch_age: Callable[[], float] = lambda: 0.0
        """Seconds since the most silent watch last heard anything."""
        self.answers: Callable[[], int] = lambda: 0
        """Answers of the API server so far."""
        self.starting = False
        """Leads, but has not read everything yet; readiness then fails."""
        self.fault = ""
        """Set where the process cannot work any more; liveness then fails with this sentence."""

    async def run(self, port: int) -> None:
        """Serve and tick for ever."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, None, port).start()
            while True:
                self.tick()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            await runner.cleanup()

    def tick(self) -> None:
        """The event loop is alive."""
        self._tick = self._clock()
        if self.answers() != self._answers:
            self._answers, self._answered_at = self.answers(), self._tick

    def trouble(self) -> str:
        """Why the process should be restarted; empty where it is well.

        An API server that does not answer is no reason: a restart would not bring it back.
        """
        now = self._clock()
        if self.fault:
            return self.fault
        if now - self._tick > MAX_LAG_SECONDS:
            return f"event loop blocked for {now - self._tick:.1f} s"
        silent = self.watch_age()
        if silent > MAX_WATCH_AGE_SECONDS and now - self._answered_at < ANSWERS_SECONDS:
            return f"a watch has been silent for {silent:.0f} s while the API server answers"
        return ""

    async def _healthz(self, _: web.Request) -> web.Response:
        trouble = self.trouble()
        return web.Response(status=500, text=trouble) if trouble else web.Response(text="ok")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.starting:
            return web.Response(status=503, text="reading the cluster's state")
        return await self._healthz(request)
