"""Bring a `Decision` about, in the order that makes every crash in between harmless.

1. Module statuses: where each module stands.
2. Audit records, before the swap they record takes effect.
3. HybridModel status, which holds the routing table: from here on its generation is taken.
4. Routing ConfigMap, then the push to attached pods.
5. Children, new modules, events.

Every write carries the resource version that the decision was made on, so that a decision made on old facts, or by a
leader that no longer leads, is refused by the API server (409) and made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ecompile_crds import audit
from ecompile_crds.names import API_VERSION, LABEL_MODEL, audit_configmap, short_hash
from pydantic import BaseModel

from ..control.hub import Hub
from ..decide.decision import Decision, ModelEvent
from ..decide.observed import Observed
from ..kube.client import KubeClient, Manifest, ensure
from ..kube.errors import KubeError
from ..kube.kinds import COMPILEDMODULE, CONFIGMAP, DEPLOYMENT, EVENT, HYBRIDMODEL, JOB, SERVICE, Kind
from ..observe.cache import Cache, ModelKey
from ..observe.observe import AUDIT_KEY
from ..settings import Settings
from ..specs.config import build_audit, build_routing
from ..specs.job import build_job
from ..specs.metadata import Owner
from ..specs.serving import build_deployment, build_service
from .trust import TrustKeeper

logger = logging.getLogger(__name__)

HASH_ANNOTATION = "ecompile.dev/applied-hash"
AUDIT_LIMIT_BYTES = 900_000
"""A ConfigMap holds 1 MiB; older records move to an archive before that."""


class NotLeading(Exception):
    """This process may not write any more."""


@dataclass
class Applier:
    """Writes to the cluster on behalf of the leader."""

    client: KubeClient
    cache: Cache
    hub: Hub
    settings: Settings
    trust: TrustKeeper
    leading: Callable[[], bool]
    now: Callable[[], datetime]

    async def apply(self, observed: Observed, decision: Decision, versions: dict[str, str]) -> None:
        """Bring `decision` about. `versions`: resource versions of the objects it was made on, by name.

        Raises KubeError where a write failed; what came before it stays, and deciding again completes the rest.
        """
        key = (observed.namespace, observed.name)
        owner = Owner(observed.namespace, observed.name, observed.uid)
        for update in decision.module_updates:
            await self._status(COMPILEDMODULE, owner.namespace, update.name, update.status, versions)
        if decision.audit:
            await self._append_audit(key, decision)
        if decision.status != observed.status:
            await self._status(HYBRIDMODEL, owner.namespace, owner.name, decision.status, versions)
        if decision.routing is not None:
            await self._apply_changed(CONFIGMAP, key, build_routing(owner, decision.routing))
            self.hub.push(decision.routing)
        failure = await self._children(key, owner, decision)
        for event in decision.events:
            await self._event(owner, event)
        if failure is not None:
            event = ModelEvent(type="Warning", reason="ApplyFailed", message=str(failure)[:900])
            await self._event(owner, event)
            raise failure

    async def _children(self, key: ModelKey, owner: Owner, decision: Decision) -> KubeError | None:
        """Children one by one: one that is refused does not keep the others from being made."""
        spec = decision.spec
        if spec is None:
            return None
        failure: KubeError | None = None
        try:
            if decision.jobs or decision.serving is not None:
                await self.trust.ensure(owner.namespace)
            for new in decision.new_modules:
                await self._create_module(owner, new.name, new.spec)
        except KubeError as error:
            return error
        for job in decision.jobs:
            try:
                if self.cache.child(JOB.kind, key, job.name) is None:
                    await self._create(JOB, key, build_job(job, owner, spec.jobs, self.settings))
            except KubeError as error:
                failure = error
        if decision.serving is not None:
            try:
                await self._apply_changed(
                    DEPLOYMENT, key, build_deployment(decision.serving, owner, spec, self.settings)
                )
                await self._apply_changed(SERVICE, key, build_service(decision.serving, owner))
                for service in self.cache.children(SERVICE.kind, key):
                    name = service["metadata"]["name"]
                    if name != decision.serving.service_name:
                        self._fence()
                        await self.client.delete(SERVICE, owner.namespace, name)
            except KubeError as error:
                failure = error
        return failure

    def _fence(self) -> None:
        if not self.leading():
            raise NotLeading("this operator does not lead any more")

    async def _status(self, kind: Kind, namespace: str, name: str, status: BaseModel, versions: dict[str, str]) -> None:
        self._fence()
        body = {
            "apiVersion": API_VERSION,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": versions[f"{kind.kind}/{name}"]},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        written = await self.client.apply(kind, body, subresource="status")
        if kind is HYBRIDMODEL:
            self.cache.put_model("applied", written)
        else:
            self.cache.put_child(kind.kind, "applied", written)

    async def _create(self, kind: Kind, key: ModelKey, manifest: Manifest) -> None:
        self._fence()
        if await ensure(self.client, kind, key[0], manifest):
            logger.info("created %s %s/%s", kind.kind, key[0], manifest["metadata"]["name"])

    async def _create_module(self, owner: Owner, name: str, spec: BaseModel) -> None:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": COMPILEDMODULE.kind,
            "metadata": {
                "name": name,
                "namespace": owner.namespace,
                "labels": {LABEL_MODEL: owner.name},
                "ownerReferences": [owner.reference()],
            },
            "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        await self._create(COMPILEDMODULE, (owner.namespace, owner.name), manifest)

    async def _apply_changed(self, kind: Kind, key: ModelKey, manifest: Manifest) -> None:
        """Server-side apply, unless the object in the cache was applied from this very manifest."""
        digest = short_hash(repr(manifest))
        meta = manifest["metadata"]
        meta.setdefault("annotations", {})[HASH_ANNOTATION] = digest
        known = self.cache.child(kind.kind, key, meta["name"])
        if known is not None and known["metadata"].get("annotations", {}).get(HASH_ANNOTATION) == digest:
            return
        self._fence()
        self.cache.put_child(kind.kind, "applied", await self.client.apply(kind, manifest))

    async def _append_audit(self, key: ModelKey, decision: Decision) -> None:
        self._fence()
        namespace, model = key
        known = self.cache.child(CONFIGMAP.kind, key, audit_configmap(model))
        text = (known or {}).get("data", {}).get(AUDIT_KEY, "")
        lines = text.splitlines()
        last = audit.parse(lines[-1:])[0].sequence if lines else 0
        fresh = [audit.to_line(record) for record in decision.audit if record.sequence > last]
        if not fresh:
            return
        if len(text) > AUDIT_LIMIT_BYTES:
            archive = build_audit(namespace, model, AUDIT_KEY, text)
            archive["metadata"]["name"] = f"{audit_configmap(model)}-{last}"
            await ensure(self.client, CONFIGMAP, namespace, archive)
            lines = []
        manifest = build_audit(namespace, model, AUDIT_KEY, "\n".join([*lines, *fresh]) + "\n")
        if known is None:
            written = await self.client.create(CONFIGMAP, namespace, manifest)
        else:
            manifest["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
            written = await self.client.replace(CONFIGMAP, manifest)
        self.cache.put_child(CONFIGMAP.kind, "applied", written)

    async def _event(self, owner: Owner, event: ModelEvent) -> None:
        """An Event; losing one is logged, never fatal."""
        kind = COMPILEDMODULE if event.module is not None else HYBRIDMODEL
        name = event.module or owner.name
        known = (
            self.cache.child(COMPILEDMODULE.kind, (owner.namespace, owner.name), name)
            if event.module is not None
            else None
        )
        uid = owner.uid if event.module is None else ((known or {}).get("metadata", {}).get("uid", ""))
        now = self.now().astimezone(UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{name}.{short_hash(uid, event.reason, event.message, now.isoformat())}",
                "namespace": owner.namespace,
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": kind.kind,
                "namespace": owner.namespace,
                "name": name,
                "uid": uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "source": {"component": "ecompile-operator"},
            "reportingComponent": "ecompile-operator",
            "reportingInstance": self.settings.pod_name,
        }
        try:
            self._fence()
            await ensure(self.client, EVENT, owner.namespace, manifest)
        except KubeError as error:
            logger.warning("event %s about %s/%s not written: %s", event.reason, owner.namespace, name, error)
