"""One term of leading: the parts that watch, decide and apply, put together and run until leadership ends.

Neither the process around it (`main`) nor the election (`leader`); everything it needs is handed in, so that tests run
the same parts against another API server, another clock and another network.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ecompile_crds.names import LABEL_MANAGED_BY, MANAGED_BY
from ecompile_crds.tracing import Tracer

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

CHILD_KINDS = (COMPILEDMODULE, JOB, POD, DEPLOYMENT, SERVICE, CONFIGMAP, HPA, PDB)
"""Our own watches, restricted to our label by the server. HybridModels come through Kopf."""
CHILD_LABELS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
RESYNC_SECONDS = 300.0
RETRY_SECONDS = 2.0


@dataclass
class Term:
    """The parts of one term."""

    client: KubeClient
    settings: Settings
    queue: WorkQueue[ModelKey]
    trust: TrustKeeper
    leading: Callable[[], bool]
    clock: Callable[[], float]
    now: Callable[[], datetime]
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once everything has been read."""
    cache: Cache = field(init=False)
    hub: Hub = field(init=False)
    reconciler: Reconciler = field(init=False)
    watchers: tuple[Watcher, ...] = field(init=False)
    tracer: Tracer | None = None
    _deciding: bool = False

    def __post_init__(self) -> None:
        client, settings = self.client, self.settings
        self.cache = cache = Cache(self._changed)
        self.hub = hub = Hub(self._changed, self.now, pods=lambda: cache.count(POD.kind))
        applier = Applier(
            client=client,
            cache=cache,
            hub=hub,
            settings=settings,
            trust=self.trust,
            leading=self.leading,
            events=EventEmitter(client, cache, instance=settings.pod_name, now=self.now),
        )
        limit, limit_per_namespace = settings.max_rollouts, settings.max_rollouts_per_namespace
        self.reconciler = Reconciler(
            client=client,
            cache=cache,
            hub=hub,
            queue=self.queue,
            applier=applier,
            decide=decide,
            now=self.now,
            artifacts_uri=settings.artifacts_uri,
            worker_image=settings.worker_image,
            slots=RolloutSlots(cache, limit=limit, limit_per_namespace=limit_per_namespace),
            storms=Storms(cache, models=settings.storm_models, seconds=settings.storm_seconds),
            rates=settings.rates(),
            tracer=self.tracer,
        )
        self.watchers = tuple(
            Watcher(
                client,
                kind,
                labels=CHILD_LABELS,
                namespaces=settings.watch_namespaces,
                sink=functools.partial(cache.put_child, kind.kind),
                clock=self.clock,
            )
            for kind in CHILD_KINDS
        )

    def _changed(self, key: ModelKey) -> None:
        """Before the first decision nothing is news: all models are looked at, in the order in which they were read."""
        if self._deciding:
            self.queue.add(key)
        else:
            self.queue.add_last(key)

    def watch_age(self) -> float:
        """Seconds since the most silent watch last heard anything."""
        return self.clock() - min(watcher.last_contact for watcher in self.watchers)

    async def follow(self) -> None:
        """Keep the cache current, leading or not, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watcher in self.watchers:
                group.create_task(watcher.run())
            for watcher in self.watchers:
                await watcher.synced.wait()
            while True:
                try:
                    await read_models(self.client, self.cache, self.settings)
                except KubeError as error:
                    logger.warning("HybridModels not read: %s", error)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                self.known.set()
                await asyncio.sleep(RESYNC_SECONDS)

    async def decide(self) -> None:
        """Decide and apply until cancelled, or until the lease is lost (NotLeading)."""
        logger.info("%d HybridModels known; deciding", len(self.cache.models))
        self._deciding = True
        await self.reconciler.run()


def assemble(
    client: KubeClient,
    settings: Settings,
    *,
    leading: Callable[[], bool],
    now: Callable[[], datetime],
    clock: Callable[[], float] = time.monotonic,
    tracer: Tracer | None = None,
) -> Term:
    """Put the parts together. `now` is for timestamps, `clock` (seconds) for waiting."""
    trust = TrustKeeper(client, clock=clock)
    return Term(client, settings, WorkQueue(clock), trust, leading, clock, now, tracer=tracer)


async def read_models(client: KubeClient, cache: Cache, settings: Settings) -> None:
    """Read the HybridModels: before deciding anything, so that no decision is made on half the facts, and from time to
    time, because Kopf does not notice what was deleted while its watch was broken."""
    for namespace in settings.watch_namespaces or (None,):
        present: set[ModelKey] = set()
        version = ""
        async for page in client.pages(HYBRIDMODEL, namespace):
            version = page.version
            for model in page.items:
                present.add((model["metadata"]["namespace"], model["metadata"]["name"]))
                cache.put_model("applied", model)
        cache.delete_models_but(present, namespace=namespace, version=version)
