"""/healthz and /readyz: is the event loop alive, and has the API server been heard of?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

MAX_LAG_SECONDS = 10.0
"""A loop that was blocked for this long is not doing its work."""
TICK_SECONDS = 1.0


class Health:
    """Answers the kubelet's probes."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tick = clock()
        self.fault = ""
        """Set where the process cannot work any more; liveness then fails with this sentence."""

    async def run(self, port: int) -> None:
        """Serve and tick for ever."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._healthz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, None, port).start()
            while True:
                self._tick = self._clock()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        lag = self._clock() - self._tick
        if self.fault:
            return web.Response(status=500, text=self.fault)
        if lag > MAX_LAG_SECONDS:
            return web.Response(status=500, text=f"event loop blocked for {lag:.1f} s")
        return web.Response(text="ok")
