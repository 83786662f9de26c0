"""The pod's process: HTTP server first (live), then plan and sessions, then the first routing table, then ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from random import Random
from types import FrameType

import numpy as np
import uvicorn
from ecompile_crds.errors import Code, EcompileError, InternalError
from ecompile_crds.tracing import Tracer, from_environment

from ..governance.energy import meters
from .adoption import Adopter
from .breaker import Alert
from .bridge import Bridge
from .checkpoint import Checkpoint, snapshot
from .comparer import ProcessComparer
from .control_client import ControlClient
from .fast_lane import fast_lane
from .feedback import Feedback
from .journal import Journal
from .metrics import Account
from .modules import ModuleStore, trusted_keys
from .neural import load_network
from .oip_grpc import GrpcServer
from .routing import Identity
from .server import App
from .service import Service
from .settings import Settings
from .watchdog import watch

logger = logging.getLogger(__name__)

FIRST_TABLE_SECONDS = 2.0
"""How long the operator may take to send the first table before the mounted one is used: that one can be a minute old
(the kubelet's refresh period), and would bring back a module that was rolled back since."""
MOUNTED_TABLE_SECONDS = 10.0
"""How long the mounted table's modules may take to load before the pod is ready with the neural path."""
DRAIN_SECONDS = 2.0
"""After SIGTERM: keep-alive clients are told to leave before the listener closes."""
GRACE_SECONDS = 20
"""Requests in flight may take this long after the listener has closed; below the Deployment's 30 s."""
SWITCH_INTERVAL_SECONDS = 0.0005
"""A request waits this long at most for another thread to hand over the interpreter (Python's default: 5 ms)."""
TAKE_SECONDS = 0.02
IDLE_TAKE_SECONDS = 0.25
TAKE_AT_ONCE = 16
"""Results of comparisons taken at once between requests: 0.2 ms at most."""


class Server(uvicorn.Server):
    """uvicorn, with a drain before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then stop. Second: stop now."""
        if self._service.draining:
            self.should_exit = True
            return
        self._service.drain()
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


async def serve(settings: Settings) -> int:
    """Run until a signal; the exit status is 0, or that of the error that made serving impossible."""
    np.seterr(over="ignore")
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    feedback = Feedback(settings.feedback_ids) if settings.feedback_ids else None
    traced = from_environment(os.environ, service="ecompile-serving", **{"k8s.pod.name": settings.pod})
    tracer, exporter = traced if traced is not None else (None, None)
    service = Service(model=settings.model, version=settings.life, feedback=feedback, tracer=tracer)
    app = App(service, account=Account(meters=meters(), region=settings.carbon_region, feedback=feedback))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=fast_lane(app),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=75,
    )
    server = Server(config, service)
    grpc_server = None
    if settings.grpc_port is not None:
        grpc_server = GrpcServer(service, port=settings.grpc_port, host=settings.host)
    running = asyncio.create_task(_run(settings, app, tracer))
    listening = asyncio.create_task(server.serve())
    status = 0
    try:
        if grpc_server is not None:
            await grpc_server.start()
        await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            try:
                running.result()
            except EcompileError as error:
                logger.error("%s", error.message)
                status = error.exit_status
            except Exception:
                logger.exception("the pod failed")
                status = InternalError(Code.INTERNAL, "").exit_status
            server.should_exit = True
        await listening
        if grpc_server is not None:
            await grpc_server.stop(GRACE_SECONDS)
    finally:
        service.close()
        if exporter is not None:
            await asyncio.to_thread(exporter.close)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return status


async def _run(settings: Settings, app: App, tracer: Tracer | None) -> None:
    """Load, adopt the first table, and stay attached until cancelled.

    Raises an EcompileError where the network cannot be loaded.
    """
    network = await asyncio.to_thread(load_network, settings.plan_uri)
    loop = asyncio.get_running_loop()
    random = Random()

    def after_end(meant: bool) -> None:
        loop.call_soon_threadsafe(lambda: bridge.totals.comparer_ended(meant=meant))

    def alerted(alert: Alert) -> None:
        logger.warning("segment %d is neural now: %s: %s", alert.segment, alert.kind.value, alert.detail)
        client.wake()

    comparer = ProcessComparer(
        network.plan, plan_uri=settings.plan_uri, trust_dir=settings.trust_dir, after_end=after_end
    )
    bridge = Bridge(
        network,
        analysis=settings.analysis,
        random=random,
        comparer=comparer,
        alerted=alerted,
        fairness=settings.fairness,
        tracer=tracer,
    )
    identity = Identity(namespace=settings.namespace, model=settings.model, life=settings.life)
    journal, checkpoint = Journal(settings.state_dir), Checkpoint(settings.state_dir)
    store = ModuleStore(
        network.plan, lambda: trusted_keys(settings.trust_dir), journal=journal, isolation=settings.isolation
    )
    adopter = Adopter(bridge, store, identity, changed=lambda: client.wake(), checkpoint=checkpoint)
    client = ControlClient(settings, bridge, adopter, random=random)
    comparer.start()
    attached = asyncio.create_task(client.run())
    beside = [
        asyncio.create_task(watch(journal, hang_seconds=settings.hang_seconds)),
        asyncio.create_task(checkpoint.keep_saving(lambda: bridge.state)),
        asyncio.create_task(_take_comparisons(bridge, comparer)),
    ]
    try:
        await _first_table(settings, client, adopter)
        app.serve(bridge)
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not walk it in the middle of a request
        logger.info("ready: %s, life %s, generation %d", settings.model, settings.life, bridge.state.generation)
        await attached
    finally:
        for task in (attached, *beside):
            task.cancel()
        await asyncio.gather(attached, *beside, return_exceptions=True)
        await adopter.close()
        comparer.stop()
        checkpoint.save(snapshot(bridge.state))
        journal.close()


async def _take_comparisons(bridge: Bridge, comparer: ProcessComparer) -> None:
    """Requests take most results; this is for the rest, when there are no more requests."""
    while True:
        await asyncio.sleep(IDLE_TAKE_SECONDS if comparer.idle else TAKE_SECONDS)
        bridge.take_comparisons(TAKE_AT_ONCE)


async def _first_table(settings: Settings, client: ControlClient, adopter: Adopter) -> None:
    """Wait for the operator's table, else the mounted one; with neither, all traffic is neural."""
    if settings.control_address and await _within(adopter.adopted, FIRST_TABLE_SECONDS):
        return
    client.read_mounted()
    if adopter.loading:
        await _within(adopter.adopted, MOUNTED_TABLE_SECONDS)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
