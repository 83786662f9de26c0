"""The operator process: wires everything, leads while it holds the Lease, ends cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import kopf
from aiohttp import web
from ecompile_crds import tracing
from ecompile_crds.errors import EcompileError
from ecompile_crds.names import LABEL_LEADER, LABEL_MANAGED_BY, MANAGED_BY, TLS_SECRET
from kubernetes.config import ConfigException
from prometheus_client import start_http_server

from . import metrics
from .apply.apply import Applier, NotLeading
from .apply.events import EventEmitter
from .apply.trust import TrustKeeper
from .control.auth import Authenticator
from .control.external_tls import ExternalCertificate
from .control.hub import Hub
from .control.server import ControlServicer, start_server
from .control.tls import ServerIdentity, client_data, current_identity, needs_renewal
from .control.webhook import AlertWebhook, WebhookToken, start_webhook
from .decide.decide import decide
from .handlers import register
from .health import Health
from .kube.client import KubeClient, load_configuration
from .kube.errors import KubeError, NotFound
from .kube.kinds import COMPILEDMODULE, CONFIGMAP, DEPLOYMENT, HPA, HYBRIDMODEL, JOB, PDB, POD, SECRET, SERVICE
from .kube.watch import Watcher
from .leader import LeaderElection
from .observe.cache import Cache, ModelKey
from .queue import WorkQueue
from .reconciler import Reconciler
from .settings import Settings, from_environment
from .slots import RolloutSlots
from .storms import Storms

logger = logging.getLogger("ecompile_operator")

CHILD_KINDS = (JOB, POD, DEPLOYMENT, SERVICE, CONFIGMAP, HPA, PDB)
CHILD_LABELS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
STATUS_SECONDS = 5.0
RESYNC_SECONDS = 300.0


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Shown:
    """The identity that the control stream shows now."""

    identity: ServerIdentity


def _issue_client(shown: Shown, namespace: str, data: dict[str, str] | None) -> dict[str, str] | None:
    return client_data(shown.identity, namespace, data, utc_now())


async def load_identity(client: KubeClient, settings: Settings) -> ServerIdentity:
    """The control stream's certificate from its Secret, made or renewed where needed and ours to make."""
    if settings.tls_external:
        return await ExternalCertificate(client, settings.namespace).wait()
    names = control_names(settings)
    try:
        secret = await client.get(SECRET, settings.namespace, TLS_SECRET)
        data = secret.get("data")
    except NotFound:
        data = None
    identity = current_identity(data, names, utc_now())
    if data is None or identity.to_data() != data:
        await client.apply(
            SECRET,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": TLS_SECRET,
                    "namespace": settings.namespace,
                    "labels": {LABEL_MANAGED_BY: MANAGED_BY},
                },
                "type": "Opaque",
                "data": identity.to_data(),
            },
        )
    return identity


def control_names(settings: Settings) -> tuple[str, ...]:
    """Host names that the control certificate must cover."""
    service = f"ecompile-control.{settings.namespace}.svc"
    host = settings.control_address.rsplit(":", 1)[0]
    names = [service, f"{service}.cluster.local", "ecompile-control", "localhost"]
    return tuple(names if not host or host in names else [host, *names])


async def read_our_kinds(client: KubeClient, cache: Cache, settings: Settings) -> None:
    """Read our two kinds: before deciding anything, so that no decision is made on half the facts, and from time to
    time, because Kopf does not notice what was deleted while its watch was broken."""
    for namespace in settings.watch_namespaces or (None,):
        for kind in (COMPILEDMODULE, HYBRIDMODEL):
            found, version = await client.list(kind, namespace)
            cache.replace_all(kind.kind, found, namespace=namespace, version=version)


async def _read_our_kinds_repeatedly(client: KubeClient, cache: Cache, settings: Settings) -> None:
    while True:
        await asyncio.sleep(RESYNC_SECONDS)
        try:
            await read_our_kinds(client, cache, settings)
        except KubeError as error:
            logger.warning("HybridModels not read again: %s", error)


async def label_leader(client: KubeClient, settings: Settings, *, leading: bool) -> None:
    """The control Service selects the Pod with this label. Outside a Pod there is nothing to label."""
    patch = {"metadata": {"labels": {LABEL_LEADER: "true" if leading else None}}}
    with contextlib.suppress(NotFound):
        await client.merge(POD, settings.namespace, settings.pod_name, patch)


async def lead(
    client: KubeClient, settings: Settings, election: LeaderElection, health: Health, stop: asyncio.Event
) -> None:
    """Everything a leader does; returns only by an exception or cancellation."""
    health.starting = True
    traced = tracing.from_environment(os.environ, service="ecompile-operator")
    tracer = traced[0] if traced is not None else None
    shown = Shown(await load_identity(client, settings))
    queue: WorkQueue[ModelKey] = WorkQueue(time.monotonic)
    cache = Cache(queue.add)
    hub = Hub(queue.add, utc_now)
    issue = functools.partial(_issue_client, shown) if settings.mutual_tls else None
    authority = shown.identity.ca_certificate.decode()
    trust = TrustKeeper(client, ca_certificate=authority, clock=time.monotonic, issue=issue)
    events = EventEmitter(client, cache, instance=settings.pod_name, now=utc_now)
    leading = election.leading if settings.leader_elect else (lambda: True)
    applier = Applier(
        client=client, cache=cache, hub=hub, settings=settings, trust=trust, leading=leading, events=events
    )
    reconciler = Reconciler(
        client=client,
        cache=cache,
        hub=hub,
        queue=queue,
        applier=applier,
        decide=decide,
        now=utc_now,
        artifacts_uri=settings.artifacts_uri,
        worker_image=settings.worker_image,
        slots=RolloutSlots(cache, limit=settings.max_rollouts, limit_per_namespace=settings.max_rollouts_per_namespace),
        tracer=tracer,
        storms=Storms(cache, models=settings.storm_models, seconds=settings.storm_seconds),
        rates=settings.rates(),
    )
    watchers = [
        Watcher(
            client,
            kind,
            labels=CHILD_LABELS,
            namespaces=settings.watch_namespaces,
            sink=functools.partial(cache.put_child, kind.kind),
            clock=time.monotonic,
        )
        for kind in CHILD_KINDS
    ]
    mutual = settings.mutual_tls
    servicer = ControlServicer(hub, Authenticator(client, time.monotonic), now=utc_now, leading=leading, mutual=mutual)
    server, port = await start_server(servicer, lambda: shown.identity, settings.control_port, mutual=mutual)
    logger.info("control stream on port %d", port)
    webhook = (
        await _start_webhook(client, cache, hub, shown.identity, settings, leading) if settings.alerts_webhook else None
    )
    health.watch_age = lambda: time.monotonic() - min(w.last_contact for w in watchers)
    registry = kopf.OperatorRegistry()
    register(registry, cache, namespaces=settings.watch_namespaces)
    try:
        async with asyncio.TaskGroup() as group:
            if settings.leader_elect:
                group.create_task(_hold(election))
            for watcher in watchers:
                group.create_task(watcher.run())
            for watcher in watchers:
                await watcher.synced.wait()
            await read_our_kinds(client, cache, settings)
            await label_leader(client, settings, leading=True)
            metrics.LEADING.set(1)
            health.starting = False
            logger.info("%d HybridModels known; deciding", len(cache.models))
            group.create_task(_read_our_kinds_repeatedly(client, cache, settings))
            group.create_task(reconciler.run())
            group.create_task(_watch_our_kinds(registry, settings, stop))
            group.create_task(_report_status(client, queue, hub, shown, settings, health))
    finally:
        if webhook is not None:
            await webhook.cleanup()
        await server.stop(grace=1.0)
        metrics.LEADING.set(0)


async def _start_webhook(
    client: KubeClient,
    cache: Cache,
    hub: Hub,
    identity: ServerIdentity,
    settings: Settings,
    leading: Callable[[], bool],
) -> web.AppRunner:
    """Take alerts from Alertmanager, for models that are known."""
    token = WebhookToken(client, settings.namespace, time.monotonic)
    await token.read()
    webhook = AlertWebhook(hub, token, leading=leading, known=lambda key: key in cache.models)
    runner, port = await start_webhook(webhook, identity, settings.alerts_port)
    logger.info("alerts webhook on port %d", port)
    return runner


async def _watch_our_kinds(registry: kopf.OperatorRegistry, settings: Settings, stop: asyncio.Event) -> None:
    """Kopf takes the signal handlers over while it runs, and returns on SIGTERM: then the process is to end."""
    await kopf.operator(
        registry=registry,
        identity=settings.pod_name,  # type: ignore[arg-type]  # a NewType of str that Kopf does not export
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )
    stop.set()


async def _hold(election: LeaderElection) -> None:
    await election.hold()
    raise NotLeading("the lease was lost")


async def _report_status(
    client: KubeClient,
    queue: WorkQueue[ModelKey],
    hub: Hub,
    shown: Shown,
    settings: Settings,
    health: Health,
) -> None:
    """Gauges, and the restart that brings a renewed certificate into service."""
    while True:
        metrics.QUEUE_DEPTH.set(len(queue))
        metrics.QUEUE_AGE.set(queue.oldest_age_seconds())
        metrics.ATTACHED_PODS.set(hub.attached())
        metrics.API_WRITES.set(client.writes)
        metrics.WATCH_AGE.set(health.watch_age())
        health.fault = health.fault or await _certificate_trouble(client, shown, settings)
        await asyncio.sleep(STATUS_SECONDS)


async def _certificate_trouble(client: KubeClient, shown: Shown, settings: Settings) -> str:
    """Renew our own certificate where it runs out soon; the control stream shows the new one at once. Why the process
    must start again to show the right one; empty where it need not."""
    identity = shown.identity
    if not settings.tls_external:
        if not needs_renewal(identity, control_names(settings), utc_now()):
            return ""
        if settings.alerts_webhook:
            return "the control certificate runs out soon; restarting renews it, for the alerts webhook too"
        try:
            shown.identity = await load_identity(client, settings)
            logger.info("the control certificate was renewed")
        except KubeError as error:
            logger.warning("the control certificate is not renewed yet: %s", error)
        return ""
    try:
        replaced = await ExternalCertificate(client, settings.namespace).replaced(identity)
    except KubeError as error:
        logger.warning("control certificate not looked at: %s", error)
        return ""
    return "the control certificate was replaced; restarting takes the new one" if replaced else ""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until leadership is lost."""
    health = Health(clock=time.monotonic)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, registry=metrics.REGISTRY)
    probes = asyncio.create_task(health.run(settings.health_port))
    async with KubeClient(load_configuration()) as client:
        health.answers = lambda: client.answers
        election = LeaderElection(
            client, namespace=settings.namespace, identity=settings.pod_name, clock=time.monotonic
        )
        work = asyncio.create_task(_elect_and_lead(client, settings, election, health, stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping, probes}, return_when=asyncio.FIRST_COMPLETED)
        failed = work.done() or probes.done()
        for task in (work, probes, stopping):
            task.cancel()
        results = await asyncio.gather(work, probes, return_exceptions=True)
        with contextlib.suppress(KubeError):
            await label_leader(client, settings, leading=False)
        await election.release()
        if failed:
            for result in results:
                if isinstance(result, Exception):
                    logger.error("stopped: %s", _reason(result))
            raise SystemExit(1)


def _reason(error: BaseException) -> str:
    """The innermost sentence of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _elect_and_lead(
    client: KubeClient, settings: Settings, election: LeaderElection, health: Health, stop: asyncio.Event
) -> None:
    with contextlib.suppress(KubeError):
        await label_leader(client, settings, leading=False)  # a container killed while it led left its label behind
    if settings.leader_elect:
        await election.acquire()
    await lead(client, settings, election, health, stop)


def main() -> None:
    """Entry point of `ecompile-operator` and `python -m ecompile_operator`."""
    try:
        settings = from_environment(os.environ)
    except EcompileError as error:
        print(f"ecompile-operator: {error.message}", file=sys.stderr)
        raise SystemExit(2) from None
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        asyncio.run(run(settings))
    except ConfigException as error:
        print(f"ecompile-operator: no cluster to talk to: {error} Run it in a Pod, or set KUBECONFIG.", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
