"""The pod's side of the control stream: reports every second and at once on news; takes routing tables.

Serving never waits for it. While there is no stream, the mounted ConfigMap is watched instead. The CA and the token
are read again at each connection, because both are replaced in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from random import Random
from time import monotonic

import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.errors import Code, EcompileError, ResourceError
from ecompile_crds.names import CA_KEY, REPORT_PACE_KEY

from .adoption import Adopter
from .breaker import AlertKind
from .bridge import Bridge
from .client_certificate import client_certificate
from .counters import SegmentCounters
from .routing import parse_table, read_mounted
from .settings import Settings

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
SLOWEST_PACE_SECONDS = 60.0
"""What the operator asks for is believed up to this."""
RATE_SECONDS = 0.5
"""Requests are counted over at least this time: a report that an alert hurries would divide by almost none."""
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_LAST_SECONDS = 5.0
CONNECT_SECONDS = 5.0
"""Time for a connection to be up before it counts as failed."""
KEEPALIVE_MILLISECONDS = 330_000
"""Above the 5 minutes that a gRPC server grants between pings before it closes the connection (too_many_pings)."""
DEAD_PEER_MILLISECONDS = 5_000
"""With keepalive on, gRPC sets TCP_USER_TIMEOUT to this: a report each second finds a vanished peer in this time."""
KINDS = {
    AlertKind.BREAKER: control_pb2.BREAKER,
    AlertKind.DRIFT: control_pb2.DRIFT,
    AlertKind.FALLBACK: control_pb2.FALLBACK,
    AlertKind.LATENCY: control_pb2.LATENCY,
    AlertKind.INPUT_DRIFT: control_pb2.INPUT_DRIFT,
    AlertKind.GROUP_GAP: control_pb2.GROUP_GAP,
}


class ControlClient:
    """Runs until cancelled; no failure of the operator or the network leaves it."""

    def __init__(
        self,
        settings: Settings,
        bridge: Bridge,
        adopter: Adopter,
        *,
        random: Random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._bridge = bridge
        self._adopter = adopter
        self._random = random
        self._clock = clock
        self._news = asyncio.Event()
        self._last = (clock(), 0)
        self._pace_seconds = REPORT_SECONDS
        self._on_trial = True
        """Whether the newest table has a module on trial; until there is one, as if it had."""
        self._rate = 0.0

    def wake(self) -> None:
        """There is an alert, an acknowledgement or a refusal to tell: report now. Call it in the event loop."""
        self._news.set()

    async def run(self) -> None:
        """Stay attached; connect again with growing, jittered waits."""
        backoff = BACKOFF_FIRST_SECONDS
        while True:
            if self._settings.control_address:
                began = self._clock()
                try:
                    await self._attach()
                except (grpc.RpcError, EcompileError, OSError) as error:
                    logger.warning("control stream: %s", _describe(error))
                if self._clock() - began > 2 * BACKOFF_LAST_SECONDS:
                    backoff = BACKOFF_FIRST_SECONDS
            self.read_mounted()
            await asyncio.sleep(backoff * (0.5 + self._random.random()))
            backoff = min(2 * backoff, BACKOFF_LAST_SECONDS)

    def read_mounted(self) -> None:
        """Offer the table in the ConfigMap if it is newer than the one in force."""
        try:
            table = read_mounted(self._settings.routing_dir)
        except EcompileError as error:
            logger.warning("%s: %s", self._settings.routing_dir, error.message)
            return
        if table is not None and table.generation > self._bridge.state.generation:
            self._on_trial = table.rolling()
            self._adopter.offer(table)

    async def _attach(self) -> None:
        credentials, metadata, options = self._credentials()
        async with grpc.aio.secure_channel(self._settings.control_address, credentials, options) as channel:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
            call = control_pb2_grpc.ControlStub(channel).Attach(self._reports(), metadata=metadata)
            try:
                self._pace_seconds = pace(await call.initial_metadata())
                async for message in call:
                    self._take(message)
                raise ResourceError(Code.CONTROL_UNAVAILABLE, f"closed by the operator: {await call.details()}")
            finally:
                call.cancel()

    def _credentials(
        self,
    ) -> tuple[grpc.ChannelCredentials, tuple[tuple[str, str], ...], list[tuple[str, str | int]]]:
        try:
            authority = (self._settings.trust_dir / CA_KEY).read_bytes()
            token = self._settings.token_file.read_text().strip()
        except OSError as error:
            raise ResourceError(Code.CONTROL_UNAVAILABLE, f"{error.filename} cannot be read: {error}.") from error
        options: list[tuple[str, str | int]] = [
            ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", DEAD_PEER_MILLISECONDS),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # waits between connections are ours, not remembered by gRPC
        ]
        if self._settings.control_server_name:
            options.append(("grpc.ssl_target_name_override", self._settings.control_server_name))
        metadata = (("authorization", f"Bearer {token}"),)
        certificate, key = client_certificate(self._settings.client_dir)
        return grpc.ssl_channel_credentials(authority, key, certificate), metadata, options

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        while True:
            self._news.clear()
            yield self.report()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._wait_seconds())

    def _wait_seconds(self) -> float:
        """Each second while a module is on trial; otherwise as often as the operator of many pods asks for."""
        return REPORT_SECONDS if self._on_trial else self._pace_seconds

    def _take(self, message: control_pb2.Routing) -> None:
        try:
            table = parse_table(message.table_json)
        except EcompileError as error:
            self._adopter.refuse_malformed(message.generation, error)
        else:
            self._on_trial = table.rolling()
            self._adopter.offer(table)

    def report(self) -> control_pb2.Report:
        """What this pod knows now."""
        now, total = self._clock(), self._bridge.totals.requests
        before, counted = self._last
        if now - before >= RATE_SECONDS:
            self._rate = (total - counted) / (now - before)
            self._last = (now, total)
        counters = self._bridge.counters()
        refusal = self._adopter.refusal
        return control_pb2.Report(
            namespace=self._settings.namespace,
            model=self._settings.model,
            pod=self._settings.pod,
            life=self._settings.life,
            acknowledged_generation=self._bridge.state.generation,
            counters=[to_message(each) for each in counters],
            alerts=[
                control_pb2.Alert(
                    kind=KINDS[alert.kind],
                    segment=alert.segment,
                    value=alert.value,
                    limit=alert.limit,
                    detail=alert.detail,
                    generation=alert.generation,
                )
                for alert in self._bridge.alerts()
            ],
            refused_reason=refusal.reason if refusal is not None else "",
            refused_generation=refusal.generation if refusal is not None else 0,
            loaded_modules=self._bridge.modules(),
            requests_per_second=self._rate,
        )


def to_message(counters: SegmentCounters) -> control_pb2.SegmentCounters:
    """Field for field."""
    told = asdict(counters)
    detectors = [control_pb2.DetectorEvidence(**each) for each in told.pop("detectors")]
    groups = [control_pb2.GroupCounters(**each) for each in told.pop("groups")]
    return control_pb2.SegmentCounters(**told, detectors=detectors, groups=groups)


def pace(metadata: Iterable[tuple[str, str | bytes]] | None) -> float:
    """Seconds between reports that the operator asks for; one where it says nothing of use."""
    text = next((str(value) for key, value in metadata or () if key == REPORT_PACE_KEY), "")
    try:
        asked = float(text)
    except ValueError:
        return REPORT_SECONDS
    return min(max(asked, REPORT_SECONDS), SLOWEST_PACE_SECONDS) if math.isfinite(asked) else REPORT_SECONDS


def _describe(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, TimeoutError):
        return (
            f"no connection within {CONNECT_SECONDS:g} s: is the operator there, and is its certificate valid, for the "
            "name that is expected, and by the CA that is mounted?"
        )
    return str(error) or type(error).__name__
