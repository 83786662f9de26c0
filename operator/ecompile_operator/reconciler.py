"""One model, once: observe, decide, apply. The loop around it keeps one model's faults from touching another's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

from .apply.apply import Applier, NotLeading
from .control.hub import Hub
from .decide.decide import decide
from .decide.decision import Decision
from .decide.observed import Observed
from .kube.errors import Conflict, KubeError
from .metrics import DECISION_SECONDS, RECONCILE_ERRORS, ROLLBACKS, TIME_TO_NEURAL
from .observe.cache import Cache, ModelKey
from .observe.observe import observe
from .queue import WorkQueue

logger = logging.getLogger(__name__)

WORKERS = 8
"""Models worked on at a time; each waits for the API server most of the time."""


class Reconciler:
    """Works the queue."""

    def __init__(
        self,
        *,
        cache: Cache,
        hub: Hub,
        queue: WorkQueue[ModelKey],
        applier: Applier,
        now: Callable[[], datetime],
        artifacts_uri: str,
    ) -> None:
        self._cache = cache
        self._hub = hub
        self._queue = queue
        self._applier = applier
        self._now = now
        self._artifacts_uri = artifacts_uri

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            started = time.monotonic()
            try:
                wake_at = await self.reconcile(key)
            except NotLeading:
                self._queue.done(key)
                raise
            except Conflict:
                RECONCILE_ERRORS.labels("conflict").inc()
                self._queue.failed(key)
            except KubeError as error:
                RECONCILE_ERRORS.labels(type(error).__name__).inc()
                wait = self._queue.failed(key)
                logger.warning("%s/%s: %s; again in %.1f s", *key, error, wait)
            except Exception:
                # The border between models: a fault in one must not stop the others. It is logged whole and retried.
                RECONCILE_ERRORS.labels("internal").inc()
                wait = self._queue.failed(key)
                logger.exception("%s/%s: internal fault; again in %.1f s", *key, wait)
            else:
                self._queue.done(key)
                if wake_at is not None:
                    self._queue.add_after(key, (wake_at - self._now()).total_seconds())
            DECISION_SECONDS.observe(time.monotonic() - started)

    async def reconcile(self, key: ModelKey) -> datetime | None:
        """Observe, decide, apply. Returns when to look again."""
        versions = self._versions(key)
        observed = observe(self._cache, self._hub, key, artifacts_uri=self._artifacts_uri)
        if observed is None or observed.deleting:
            self._hub.forget(key)
            return None
        decision = decide(observed, self._now())
        await self._applier.apply(observed, decision, versions)
        _count(observed, decision)
        return decision.wake_at

    def _versions(self, key: ModelKey) -> dict[str, str]:
        model = self._cache.models.get(key)
        if model is None:
            return {}
        found = [model, *self._cache.children("CompiledModule", key)]
        return {f"{m['kind']}/{m['metadata']['name']}": m["metadata"]["resourceVersion"] for m in found}


def _count(observed: Observed, decision: Decision) -> None:
    before = {m.name: m.status for m in observed.modules}
    for update in decision.module_updates:
        old, new = before[update.name].last_rollback, update.status.last_rollback
        if new is None:
            continue
        if old is None or old.generation != new.generation:
            ROLLBACKS.labels(new.reason).inc()
        if new.routed_neural_in_seconds is not None and (old is None or old.routed_neural_in_seconds is None):
            TIME_TO_NEURAL.observe(new.routed_neural_in_seconds)
