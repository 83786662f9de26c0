"""The pod's side of the control stream. The pod serves without it: last table, mounted ConfigMap, own breaker."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.errors import EcompileError
from ecompile_crds.names import CA_KEY, ROUTING_KEY
from ecompile_crds.routing import RoutingTable
from pydantic import ValidationError

from .bridge import Bridge
from .settings import Settings

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.2, 3.0


class ControlClient:
    """Reports every second and at once on an alert; adopts the tables it is sent."""

    def __init__(self, bridge: Bridge, settings: Settings) -> None:
        self._bridge = bridge
        self._settings = settings
        self._changed = asyncio.Event()
        self._refused: tuple[int, str] = (0, "")
        self.connected = False
        loop = asyncio.get_running_loop()

        def alerted() -> None:
            loop.call_soon_threadsafe(self._changed.set)

        bridge.alerted = alerted

    async def run(self) -> None:
        """Never returns."""
        mounted = asyncio.create_task(self._follow_mounted_table())
        wait = MIN_BACKOFF_SECONDS
        try:
            while True:
                try:
                    await self._attach()
                    wait = MIN_BACKOFF_SECONDS
                except (grpc.RpcError, OSError) as error:
                    detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                    logger.warning("control stream: %s; again in %.1f s", detail, wait)
                self.connected = False
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, MAX_BACKOFF_SECONDS)
        finally:
            mounted.cancel()

    async def _attach(self) -> None:
        ca = (self._settings.trust / CA_KEY).read_bytes()
        token = self._settings.token.read_text().strip()
        options = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
        credentials = grpc.ssl_channel_credentials(ca)
        async with grpc.aio.secure_channel(self._settings.control_address, credentials, options=options) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            call = stub.Attach(self._reports(), metadata=(("authorization", f"Bearer {token}"),))
            async for message in call:
                self.connected = True
                await self._adopt(message.table_json)

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        while True:
            self._changed.clear()
            yield self.report()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=HEARTBEAT_SECONDS)
            except TimeoutError:
                continue

    def report(self) -> control_pb2.Report:
        """What the pod says of itself now."""
        state, settings = self._bridge.state, self._settings
        return control_pb2.Report(
            namespace=settings.namespace,
            model=settings.model,
            pod=settings.pod,
            life=settings.life,
            acknowledged_generation=state.generation,
            counters=[s.monitor.to_message() for s in state.segments],
            alerts=[
                control_pb2.Alert(
                    kind=a.kind,  # type: ignore[arg-type]  # the enum's number
                    segment=a.segment,
                    value=a.value,
                    limit=a.limit,
                    detail=a.detail,
                    generation=a.generation,
                )
                for a in self._bridge.alerts()
            ],
            refused_generation=self._refused[0],
            refused_reason=self._refused[1],
            loaded_modules=[s.route.module or "" for s in state.segments if s.module is not None],
        )

    async def _adopt(self, text: str) -> None:
        """Load in a thread, so that requests are answered meanwhile; then acknowledge at once."""
        try:
            table = RoutingTable.model_validate_json(text)
        except ValidationError as error:
            logger.error("routing table cannot be read: %s", error.errors()[0]["msg"])
            return
        try:
            await asyncio.to_thread(self._bridge.adopt, table)
            self._refused = (0, "")
            logger.info("routing generation %d in force", self._bridge.state.generation)
        except EcompileError as error:
            self._refused = (table.generation, error.message)
            logger.error("routing generation %d refused: %s", table.generation, error.message)
        except OSError as error:
            self._refused = (table.generation, f"cannot be loaded: {error}")
            logger.error("routing generation %d refused: %s", table.generation, error)
        self._changed.set()

    async def _follow_mounted_table(self) -> None:
        """The mounted ConfigMap is the second path: followed while the operator cannot be reached."""
        seen = ""
        while True:
            text = read_mounted(self._settings.routing)
            if text and text != seen and not self.connected:
                seen = text
                await self._adopt(text)
            await asyncio.sleep(1.0)


def read_mounted(directory: Path) -> str:
    """Text of the mounted table; empty where there is none."""
    try:
        return (directory / ROUTING_KEY).read_text()
    except OSError:
        return ""
