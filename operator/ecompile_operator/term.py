"""One term of leading: the parts that watch, decide and apply, put together and run until leadership ends.

Neither the process around it (`main`) nor the election (`leader`); everything it needs is handed in, so that tests run
the same parts against another API server, another clock and another network.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from ecompile_crds.names import LABEL_MANAGED_BY, MANAGED_BY

from .apply.apply import Applier
from .apply.events import EventEmitter
from .apply.trust import TrustKeeper
from .control.hub import Hub
from .decide.decide import decide
from .kube.client import KubeClient
from .kube.errors import KubeError
from .kube.kinds import COMPILEDMODULE, CONFIGMAP, DEPLOYMENT, HPA, HYBRIDMODEL, JOB, PDB, POD, SERVICE
from .kube.watch import Watcher
from .observe.cache import Cache, ModelKey
from .queue import WorkQueue
from .reconciler import Reconciler
from .settings import Settings
from .slots import RolloutSlots
from .storms import Storms

logger = logging.getLogger("ecompile_operator")

CHILD_KINDS = (JOB, POD, DEPLOYMENT, SERVICE, CONFIGMAP, HPA, PDB)
CHILD_LABELS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
RESYNC_SECONDS = 300.0


@dataclass(frozen=True)
class Term:
    """The parts of one term."""

    client: KubeClient
    settings: Settings
    queue: WorkQueue[ModelKey]
    cache: Cache
    hub: Hub
    reconciler: Reconciler
    watchers: tuple[Watcher, ...]
    leading: Callable[[], bool]
    clock: Callable[[], float]

    def watch_age(self) -> float:
        """Seconds since the most silent watch last heard anything."""
        return self.clock() - min(watcher.last_contact for watcher in self.watchers)

    async def run(self, *, ready: Callable[[], Awaitable[None]]) -> None:
        """Work until cancelled. `ready` is called once everything has been read, before the first decision."""
        async with asyncio.TaskGroup() as group:
            for watcher in self.watchers:
                group.create_task(watcher.run())
            for watcher in self.watchers:
                await watcher.synced.wait()
            await read_our_kinds(self.client, self.cache, self.settings)
            await ready()
            logger.info("%d HybridModels known; deciding", len(self.cache.models))
            group.create_task(self._read_our_kinds_repeatedly())
            group.create_task(self.reconciler.run())

    async def _read_our_kinds_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await read_our_kinds(self.client, self.cache, self.settings)
            except KubeError as error:
                logger.warning("HybridModels not read again: %s", error)


def assemble(
    client: KubeClient,
    settings: Settings,
    *,
    ca_certificate: str,
    leading: Callable[[], bool],
    now: Callable[[], datetime],
    clock: Callable[[], float] = time.monotonic,
) -> Term:
    """Put the parts together. `now` is for timestamps, `clock` (seconds) for waiting."""
    queue: WorkQueue[ModelKey] = WorkQueue(clock)
    cache = Cache(queue.add)
    hub = Hub(queue.add, now)
    applier = Applier(
        client=client,
        cache=cache,
        hub=hub,
        settings=settings,
        trust=TrustKeeper(client, ca_certificate=ca_certificate, clock=clock),
        leading=leading,
        events=EventEmitter(client, cache, instance=settings.pod_name, now=now),
    )
    reconciler = Reconciler(
        client=client,
        cache=cache,
        hub=hub,
        queue=queue,
        applier=applier,
        decide=decide,
        now=now,
        artifacts_uri=settings.artifacts_uri,
        worker_image=settings.worker_image,
        slots=RolloutSlots(cache, limit=settings.max_rollouts, limit_per_namespace=settings.max_rollouts_per_namespace),
        storms=Storms(cache, models=settings.storm_models, seconds=settings.storm_seconds),
    )
    watchers = tuple(
        Watcher(
            client,
            kind,
            labels=CHILD_LABELS,
            namespaces=settings.watch_namespaces,
            sink=functools.partial(cache.put_child, kind.kind),
            clock=clock,
        )
        for kind in CHILD_KINDS
    )
    return Term(client, settings, queue, cache, hub, reconciler, watchers, leading, clock)


async def read_our_kinds(client: KubeClient, cache: Cache, settings: Settings) -> None:
    """Read our two kinds: before deciding anything, so that no decision is made on half the facts, and from time to
    time, because Kopf does not notice what was deleted while its watch was broken."""
    for namespace in settings.watch_namespaces or (None,):
        for kind in (COMPILEDMODULE, HYBRIDMODEL):
            found, version = await client.list(kind, namespace)
            cache.replace_all(kind.kind, found, namespace=namespace, version=version)
