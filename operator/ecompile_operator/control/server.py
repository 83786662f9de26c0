"""gRPC server of the control stream. Translates messages to and from the hub; decides nothing."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.names import REPORT_PACE_KEY

from ..decide.observed import AlertKind, Counters, GroupCounters, PodAlert, PodReport
from ..kube.errors import KubeError
from .auth import Authenticator, Caller
from .evidence import Wealth
from .hub import Hub, ModelKey
from .tls import ServerIdentity

logger = logging.getLogger(__name__)

ALERT_KINDS = {
    control_pb2.BREAKER: AlertKind.BREAKER,
    control_pb2.DRIFT: AlertKind.DRIFT,
    control_pb2.FALLBACK: AlertKind.FALLBACK,
    control_pb2.LATENCY: AlertKind.LATENCY,
    control_pb2.INPUT_DRIFT: AlertKind.INPUT_DRIFT,
    control_pb2.GROUP_GAP: AlertKind.GROUP_GAP,
}
DETECTORS = {
    control_pb2.DELTA: AlertKind.DRIFT,
    control_pb2.EXCEEDANCE: AlertKind.DRIFT,
    control_pb2.REFUSAL: AlertKind.FALLBACK,
    control_pb2.INPUTS: AlertKind.INPUT_DRIFT,
    control_pb2.GAP: AlertKind.GROUP_GAP,
}
"""Which alert a sequential test raises."""
MAX_BETS = 64
NOT_LEADER = "this operator is not the leader; connect again"
MAX_NAME = 63
MAX_GROUPS = 32
Context = grpc.aio.ServicerContext[object, object]


class ControlServicer(control_pb2_grpc.ControlServicer):
    """Attach for serving pods, Progress for Jobs."""

    def __init__(
        self,
        hub: Hub,
        authenticator: Authenticator,
        *,
        now: Callable[[], datetime],
        leading: Callable[[], bool],
        mutual: bool = False,
    ) -> None:
        """`mutual`: the certificate that a client shows must be of the namespace that it speaks for."""
        self._mutual = mutual
        self._hub = hub
        self._authenticator = authenticator
        self._now = now
        self._leading = leading

    async def Attach(  # the name is the RPC's
        self, request_iterator: AsyncIterator[control_pb2.Report], context: Context
    ) -> AsyncIterator[control_pb2.Routing]:
        """Serve one pod's stream."""
        caller = await self._authenticate(context)
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        await self._authorise(context, caller, first.namespace, first.pod)
        key = (first.namespace, first.model)
        pace = self._hub.pace()
        await context.send_initial_metadata(((REPORT_PACE_KEY, f"{pace:g}"),))
        queue = self._hub.attach(key, first.pod, pace_seconds=pace)
        self._take(key, first)
        reader = asyncio.create_task(self._read(request_iterator, context, key, first.pod))
        try:
            while not reader.done():
                getter = asyncio.create_task(queue.get())
                await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    getter.cancel()
                    break
                table = getter.result()
                yield control_pb2.Routing(
                    table_json=table.model_dump_json(by_alias=True, exclude_defaults=True), generation=table.generation
                )
        finally:
            reader.cancel()
            self._hub.detach(key, queue)

    async def _read(
        self, reports: AsyncIterator[control_pb2.Report], context: Context, key: ModelKey, pod: str
    ) -> None:
        async for message in reports:
            if (message.namespace, message.model, message.pod) != (*key, pod):
                logger.warning("pod %s/%s changed its name within a stream; closing it", key[0], pod)
                return
            if not self._leading():
                return
            self._take(key, message)

    def _take(self, key: ModelKey, message: control_pb2.Report) -> None:
        self._hub.report(key, to_report(message, self._now()), to_wealth(message))

    async def Progress(  # the name is the RPC's
        self, request_iterator: AsyncIterator[control_pb2.JobProgress], context: Context
    ) -> control_pb2.ProgressSummary:
        """Serve one Job Pod's stream."""
        caller = await self._authenticate(context)
        received = 0
        async for message in request_iterator:
            await self._authorise(context, caller, message.namespace, caller.pod)
            if not self._leading():
                await context.abort(grpc.StatusCode.UNAVAILABLE, NOT_LEADER)
            received += 1
            key = (message.namespace, message.model)
            self._hub.step(key, message.job[:MAX_NAME], message.index, progress_text(message))
        return control_pb2.ProgressSummary(received=received)

    async def _authenticate(self, context: Context) -> Caller:
        if not self._leading():
            await context.abort(grpc.StatusCode.UNAVAILABLE, NOT_LEADER)
        metadata = {str(k).lower(): str(v) for k, v in context.invocation_metadata() or ()}
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "metadata authorization: a bearer token is missing")
        try:
            caller = await self._authenticator.caller(token)
        except KubeError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the token cannot be checked now; connect again")
        if caller is None:
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "the token is not valid for audience ecompile, or not bound to a Pod"
            )
        assert caller is not None
        return caller

    async def _authorise(self, context: Context, caller: Caller, namespace: str, pod: str) -> None:
        if self._mutual and context.auth_context().get("x509_common_name") != [namespace.encode()]:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"the client certificate is not one of namespace {namespace}"
            )
        if (caller.namespace, caller.pod) != (namespace, pod):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token belongs to Pod {caller.namespace}/{caller.pod}, not to {namespace}/{pod}",
            )


def progress_text(message: control_pb2.JobProgress) -> str:
    """Such as `compile 60%`, in steps of 5 % so that the status is not written more often than anyone reads it."""
    share = min(max(message.fraction, 0.0), 1.0) if math.isfinite(message.fraction) else 0.0
    return f"{message.step[:MAX_NAME]} {round(share * 20) * 5}%"


def to_report(message: control_pb2.Report, received_at: datetime) -> PodReport:
    """The message as a value; unknown alert kinds of later versions count as breaker alerts."""
    return PodReport(
        pod=message.pod,
        life=message.life,
        received_at=received_at,
        generation=message.acknowledged_generation,
        counters=tuple(
            Counters(
                segment=c.segment,
                requests=c.requests,
                compiled=c.compiled,
                fallbacks=c.fallbacks,
                guard_checked=c.guard_checked,
                comparisons=c.comparisons,
                delta_sum=c.delta_sum,
                delta_max=c.delta_max,
                compiled_p50_seconds=c.compiled_p50_seconds,
                neural_p50_seconds=c.neural_p50_seconds,
                latency_samples=c.latency_samples,
                proven_comparisons=c.proven_comparisons,
                groups=tuple(
                    GroupCounters(group=g.group[:MAX_NAME], comparisons=g.comparisons, exceeded=g.exceeded)
                    for g in c.groups[:MAX_GROUPS]
                ),
            )
            for c in message.counters
        ),
        alerts=tuple(
            PodAlert(
                kind=ALERT_KINDS.get(a.kind, AlertKind.BREAKER),
                segment=a.segment,
                value=a.value,
                limit=a.limit,
                detail=a.detail[:500],
                generation=a.generation,
            )
            for a in message.alerts
        ),
        refused_generation=message.refused_generation,
        refused_reason=message.refused_reason[:500],
        requests_per_second=message.requests_per_second,
    )


def to_wealth(message: control_pb2.Report) -> tuple[Wealth, ...]:
    """What the pod's detectors have seen; tests of later versions, and values that make no sense, are left out."""
    return tuple(
        Wealth(
            kind=DETECTORS[each.detector],
            detector=each.detector,
            segment=counters.segment,
            group=each.group[:MAX_NAME],
            observations=each.observations,
            log_wealth=tuple(each.log_wealth),
            mean=each.mean,
            limit=each.limit,
        )
        for counters in message.counters
        for each in counters.detectors
        if each.detector in DETECTORS and len(each.log_wealth) <= MAX_BETS and all(map(math.isfinite, each.log_wealth))
    )


async def start_server(
    servicer: ControlServicer, identity: Callable[[], ServerIdentity], port: int, *, mutual: bool = False
) -> tuple[grpc.aio.Server, int]:
    """Listen with TLS. Returns the server and the port it got.

    `identity` is asked at each handshake: a renewed certificate needs no restart. `mutual`: clients must show a
    certificate of our CA.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", 1 << 20),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Pods ping every 10 s to notice a dead connection; by default the server hangs up on that as abuse.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ]
    )
    control_pb2_grpc.add_ControlServicer_to_server(servicer, server)
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(identity()), lambda: _configuration(identity()), mutual
    )
    bound = server.add_secure_port(f"[::]:{port}", credentials)
    await server.start()
    return server, bound


def _configuration(identity: ServerIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.ca_certificate
    )
