"""One model, once: observe, decide, apply. The loop around it keeps one model's faults from touching another's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from ecompile_crds.hybridmodel import CostStatus
from ecompile_crds.names import LABEL_MODEL, audit_configmap
from ecompile_crds.tracing import Tracer, trace_of

from .apply.apply import Applier, NotLeading
from .control.hub import Hub
from .decide.decision import Decision
from .decide.observed import Observed, Rates
from .kube.client import KubeClient, find
from .kube.errors import Conflict, KubeError, NotFound
from .kube.kinds import COMPILEDMODULE, CONFIGMAP, HYBRIDMODEL, JOB, POD, SERVICE
from .metrics import (
    DECISION_SECONDS,
    JOB_CPU_SECONDS,
    JOB_GPU_SECONDS,
    JOB_JOULES,
    JOB_PRICE,
    RECONCILE_ERRORS,
    ROLLBACKS,
    TIME_TO_NEURAL,
)
from .observe.cache import Cache, ModelKey
from .observe.jobs import JOB_LABEL, lacks_results
from .observe.observe import observe
from .queue import WorkQueue
from .slots import RolloutSlots
from .storms import Storms

logger = logging.getLogger(__name__)

Decide = Callable[[Observed, datetime], Decision]

WORKERS = 32
"""Models worked on at a time; each waits for the API server most of the time."""
SERVICE_RECHECK = timedelta(seconds=10)
"""How often to see whether a Service name that someone else holds has become free."""


class Reconciler:
    """Works the queue."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        hub: Hub,
        queue: WorkQueue[ModelKey],
        applier: Applier,
        decide: Decide,
        now: Callable[[], datetime],
        artifacts_uri: str,
        worker_image: str,
        slots: RolloutSlots,
        storms: Storms,
        tracer: Tracer | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._hub = hub
        self._queue = queue
        self._applier = applier
        self._decide = decide
        self._now = now
        self._artifacts_uri = artifacts_uri
        self._worker_image = worker_image
        self._slots = slots
        self._storms = storms
        self._tracer = tracer
        self._rates = rates or Rates()
        self._looked_closely: dict[ModelKey, set[str]] = {}
        """Finished Jobs (uid) whose Pods were read again for a missing result; a key for each model decided on."""

    @property
    def decided(self) -> int:
        """Models that were decided on."""
        return len(self._looked_closely)

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
            except (Conflict, NotFound) as error:
                RECONCILE_ERRORS.labels("stale").inc()
                logger.info("%s/%s: decided on old facts (%s); reading again", *key, error)
                await self._read_again(key)
                self._queue.failed(key)
            except KubeError as error:
                RECONCILE_ERRORS.labels(type(error).__name__).inc()
                wait = self._queue.failed(key)
                logger.warning("%s/%s: %s; again in %.1f s", *key, error, wait)
            except Exception as error:
                # The border between models: a fault in one must not stop the others. It is logged whole and retried.
                RECONCILE_ERRORS.labels("internal").inc()
                logger.exception("%s/%s: internal fault", *key)
                await self._tell(key, error)
                self._queue.failed(key)
            else:
                self._queue.done(key)
                if wake_at is not None:
                    self._queue.add_after(key, (wake_at - self._now()).total_seconds())
            DECISION_SECONDS.observe(time.monotonic() - started)

    async def reconcile(self, key: ModelKey) -> datetime | None:
        """Observe, decide, apply. Returns when to look again."""
        await self._complete_results(key)
        versions = self._cache.versions(key)
        observed = self._observe(key)
        if observed is None or (observed.deleting and not observed.finalizer):
            self._hub.forget(key)
            self._wake(self._slots.forget(key))
            self._looked_closely.pop(key, None)
            return None
        now = self._now()
        started = self._tracer.now() if self._tracer is not None else 0
        decision = self._decide(observed, now)
        self._storms.decided(key, decision)
        freed = self._slots.decided(observed, decision)
        await self._applier.apply(observed, decision, versions)
        if self._tracer is not None:
            trace_decision(self._tracer, observed, decision, started)
        self._wake(freed)
        _count(observed, decision)
        wakes = [at for at in (decision.wake_at, self._hub.expiry(key)) if at is not None]
        if observed.spec is not None:
            name = observed.spec.serving.service_name or observed.name
            if observed.service_owner is not None:
                await self._applier.recheck_service(observed.namespace, name)
                wakes.append(now + SERVICE_RECHECK)
            if observed.service_owner != self._cache.other_owner(SERVICE.kind, key, name):
                wakes.append(now)
        return min(wakes, default=None)

    def _wake(self, keys: tuple[ModelKey, ...]) -> None:
        for key in keys:
            self._queue.add(key)

    async def _complete_results(self, key: ModelKey) -> None:
        """Read the Pods of a finished Job from the server where its results have not come through the watch yet."""
        looked = self._looked_closely.setdefault(key, set())
        while True:
            # Looked at afresh after each answer: another Job may have ended while it was awaited.
            pods = self._cache.children(POD.kind, key)
            jobs = self._cache.children(JOB.kind, key)
            lacking = {job["metadata"]["uid"]: job for job in jobs if lacks_results(job, pods)}
            looked &= set(lacking)
            uid = next((uid for uid in lacking if uid not in looked), None)
            if uid is None:
                return
            labels = f"{JOB_LABEL}={lacking[uid]['metadata']['name']}"
            found, _ = await self._client.list(POD, key[0], labels=labels)
            for pod in found:
                self._cache.put_child(POD.kind, "applied", pod)
            looked.add(uid)

    async def _read_again(self, key: ModelKey) -> None:
        """Bring the cache up to date for one model, past whatever the watches have not delivered yet."""
        namespace, name = key
        try:
            for kind, label in ((HYBRIDMODEL, ""), (COMPILEDMODULE, f"{LABEL_MODEL}={name}")):
                fields = f"metadata.name={name}" if kind is HYBRIDMODEL else ""
                found, version = await self._client.list(kind, namespace, labels=label, fields=fields)
                self._cache.replace_model(kind.kind, key, found, version=version)
            log = await find(self._client, CONFIGMAP, namespace, audit_configmap(name))
        except KubeError as error:
            logger.warning("%s/%s: %s", *key, error)
            return
        if log is not None:
            self._cache.put_child(CONFIGMAP.kind, "applied", log)

    async def _tell(self, key: ModelKey, error: Exception) -> None:
        observed = None
        with contextlib.suppress(Exception):  # what cannot be observed is logged above and has no one to tell
            observed = self._observe(key)
        if observed is not None:
            sentence = f"the operator failed on this model ({type(error).__name__}: {error}); it tries again"
            await self._applier.report_fault(observed, "InternalError", sentence)

    def _observe(self, key: ModelKey) -> Observed | None:
        seen = observe(self._cache, self._hub, key, artifacts_uri=self._artifacts_uri, worker_image=self._worker_image)
        if seen is None:
            return None
        return replace(
            seen, rates=self._rates, fleet=replace(self._slots.fleet(key), storm=self._storms.now(self._now()))
        )


def trace_decision(tracer: Tracer, observed: Observed, decision: Decision, started_ns: int) -> None:
    """A decision that changed something, in the trace of the life it is about; those that did not are no news."""
    life = decision.status.life
    before = observed.status.routing.generation
    changed = [update.name for update in decision.module_updates]
    known = {job.name for job in observed.jobs}
    jobs = [job.name for job in decision.jobs if job.name not in known]
    if life is None or not (jobs or decision.events or decision.status.routing.generation != before):
        return
    span = tracer.start("decide", trace_of(observed.namespace, observed.name, life.key))
    span.start_ns = started_ns
    span.attributes |= {
        "ecompile.model": f"{observed.namespace}/{observed.name}",
        "ecompile.phase": decision.status.phase.value,
        "ecompile.generation": decision.status.routing.generation,
        "ecompile.modules": ",".join(changed),
        "ecompile.jobs": ",".join(jobs),
        "ecompile.events": "; ".join(f"{event.reason}: {event.message}" for event in decision.events)[:1000],
    }
    tracer.end(span)


def _count(observed: Observed, decision: Decision) -> None:
    spent, known = decision.status.cost, observed.status.cost or CostStatus()
    if spent is not None and spent.runs > known.runs:
        JOB_CPU_SECONDS.labels(observed.namespace).inc(max(0.0, spent.cpu_seconds - known.cpu_seconds))
        JOB_GPU_SECONDS.labels(observed.namespace).inc(max(0.0, spent.gpu_seconds - known.gpu_seconds))
        JOB_JOULES.labels(observed.namespace).inc(max(0.0, spent.joules - known.joules))
        JOB_PRICE.labels(observed.namespace).inc(max(0.0, spent.price - known.price))
    before = {m.name: m.status for m in observed.modules}
    for update in decision.module_updates:
        old, new = before[update.name].last_rollback, update.status.last_rollback
        if new is None:
            continue
        if old is None or old.generation != new.generation:
            ROLLBACKS.labels(new.reason).inc()
        if new.routed_neural_in_seconds is not None and (old is None or old.routed_neural_in_seconds is None):
            TIME_TO_NEURAL.observe(new.routed_neural_in_seconds)
