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
from .apply.apply import NotLeading
from .control.auth import Authenticator
from .control.external_tls import ExternalCertificate
from .control.server import ControlServicer, start_server
from .control.tls import ServerIdentity, client_data, current_identity, needs_renewal
from .control.webhook import AlertWebhook, WebhookToken, start_webhook
from .handlers import register
from .health import Health
from .kube.client import KubeClient, load_configuration
from .kube.errors import KubeError, NotFound
from .kube.kinds import POD, SECRET
from .leader import LeaderElection
from .memory import give_back_memory
from .settings import Settings, from_environment
from .term import Term, assemble

logger = logging.getLogger("ecompile_operator")

STATUS_SECONDS = 5.0


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


async def label_leader(client: KubeClient, settings: Settings, *, leading: bool) -> None:
    """The control Service selects the Pod with this label. Outside a Pod there is nothing to label."""
    patch = {"metadata": {"labels": {LABEL_LEADER: "true" if leading else None}}}
    with contextlib.suppress(NotFound):
        await client.merge(POD, settings.namespace, settings.pod_name, patch)


async def work(
    client: KubeClient, settings: Settings, election: LeaderElection, health: Health, stop: asyncio.Event
) -> None:
    """Follow the cluster, wait for the lease, lead. Returns only by an exception or cancellation.

    Who waits for the lease follows the cluster too, so that it decides as soon as it has the lease.
    """
    health.starting = True
    leading = election.leading if settings.leader_elect else (lambda: True)
    traced = tracing.from_environment(os.environ, service="ecompile-operator")
    tracer = traced[0] if traced is not None else None
    term = assemble(client, settings, leading=leading, now=utc_now, tracer=tracer)
    health.watch_age = term.watch_age
    registry = kopf.OperatorRegistry()
    register(registry, term.cache, namespaces=settings.watch_namespaces)
    async with asyncio.TaskGroup() as group:
        group.create_task(term.follow())
        await term.known.wait()
        group.create_task(_watch_models(registry, settings, stop))
        group.create_task(give_back_memory())
        health.starting = False
        metrics.STANDBY_READY.set(1)
        with contextlib.suppress(KubeError):
            await label_leader(client, settings, leading=False)  # left behind by a container killed while it led
        if settings.leader_elect:
            await election.acquire()
            group.create_task(_hold(election))
        await lead(term, health)


async def lead(term: Term, health: Health) -> None:
    """What only the leader does."""
    client, settings = term.client, term.settings
    shown, mutual = Shown(await load_identity(client, settings)), settings.mutual_tls
    term.trust.ca_certificate = shown.identity.ca_certificate.decode()
    term.trust.issue = functools.partial(_issue_client, shown) if mutual else None
    authenticator = Authenticator(client, time.monotonic)
    servicer = ControlServicer(term.hub, authenticator, now=utc_now, leading=term.leading, mutual=mutual)
    server, port = await start_server(servicer, lambda: shown.identity, settings.control_port, mutual=mutual)
    logger.info("control stream on port %d", port)
    webhook = await _start_webhook(term, shown.identity) if settings.alerts_webhook else None
    try:
        await label_leader(client, settings, leading=True)
        metrics.LEADING.set(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(term.decide())
            group.create_task(_report_status(term, shown, health))
    finally:
        if webhook is not None:
            await webhook.cleanup()
        metrics.LEADING.set(0)
        await server.stop(grace=1.0)


async def _start_webhook(term: Term, identity: ServerIdentity) -> web.AppRunner:
    """Take alerts from Alertmanager, for models that are known."""
    token = WebhookToken(term.client, term.settings.namespace, time.monotonic)
    await token.read()
    webhook = AlertWebhook(term.hub, token, leading=term.leading, known=lambda key: key in term.cache.models)
    runner, port = await start_webhook(webhook, identity, term.settings.alerts_port)
    logger.info("alerts webhook on port %d", port)
    return runner


async def _watch_models(registry: kopf.OperatorRegistry, settings: Settings, stop: asyncio.Event) -> None:
    """Until `stop`. Kopf takes the signal handlers over, and at its end cancels every task that is younger than it, the
    leader's among them: so they are taken back, and the end of the process is ours to order."""
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_stop_on_signals(stop, ready))
        await kopf.operator(
            registry=registry,
            identity=settings.pod_name,  # type: ignore[arg-type]  # a NewType of str that Kopf does not export
            standalone=True,
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            ready_flag=ready,
            stop_flag=stop,
        )
        ready.set()
    stop.set()


async def _stop_on_signals(stop: asyncio.Event, when: asyncio.Event) -> None:
    await when.wait()
    stop_on_signals(stop)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _hold(election: LeaderElection) -> None:
    await election.hold()
    raise NotLeading("the lease was lost")


async def _report_status(term: Term, shown: Shown, health: Health) -> None:
    """Gauges, and a renewed certificate in time."""
    metrics.QUEUE_DEPTH.set_function(lambda: len(term.queue))
    metrics.ATTACHED_PODS.set_function(term.hub.attached)
    metrics.MODELS_DECIDED.set_function(lambda: term.reconciler.decided)
    while True:
        metrics.QUEUE_AGE.set(term.queue.oldest_age_seconds())
        metrics.MODELS.set(len(term.cache.models))
        metrics.WATCH_AGE.set(term.watch_age())
        health.fault = health.fault or await _certificate_trouble(term.client, shown, term.settings)
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
    stop_on_signals(stop)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, registry=metrics.REGISTRY)
    probes = asyncio.create_task(health.run(settings.health_port))
    async with (
        KubeClient(load_configuration(), count=metrics.count_request) as client,
        # Connections of its own: the lease is renewed in time however many requests wait for the others.
        KubeClient(load_configuration(), count=metrics.count_request) as lease_client,
    ):
        health.answers = lambda: client.answers
        election = LeaderElection(
            lease_client, namespace=settings.namespace, identity=settings.pod_name, clock=time.monotonic
        )
        working = asyncio.create_task(work(client, settings, election, health, stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopping, probes}, return_when=asyncio.FIRST_COMPLETED)
        failed = not stop.is_set()
        for task in (working, probes, stopping):
            task.cancel()
        results = await asyncio.gather(working, probes, return_exceptions=True)
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
