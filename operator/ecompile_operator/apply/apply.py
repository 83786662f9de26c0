"""Bring a `Decision` about, in the order that makes every crash in between harmless.

1. Module statuses: where each module stands.
2. Audit records, before the swap they record takes effect.
3. HybridModel status, which holds the routing table: from here on its generation is taken.
4. Routing ConfigMap, then the push to attached pods.
5. Children, new modules, events.

Our finalizer is put on before anything else and taken off after everything else.

Every write carries the resource version that the decision was made on, so that a decision made on old facts, or by a
leader that no longer leads, is refused by the API server (409) and made again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ecompile_crds import audit
from ecompile_crds.errors import EcompileError
from ecompile_crds.hybridmodel import HybridModelSpec
from ecompile_crds.names import API_VERSION, FINALIZER_ORPHAN, audit_configmap, short_hash
from ecompile_crds.routing import RoutingTable
from pydantic import BaseModel

from ..control.hub import Hub
from ..decide.decision import Decision, DesiredServing, ModelEvent
from ..decide.observed import Observed
from ..kube.client import KubeClient, Manifest, ensure, find
from ..kube.errors import KubeError, NotFound, Refused
from ..kube.kinds import COMPILEDMODULE, CONFIGMAP, DEPLOYMENT, HPA, HYBRIDMODEL, JOB, PDB, SERVICE, Kind
from ..observe.cache import Cache, ModelKey, controller_uid
from ..observe.observe import AUDIT_KEY
from ..settings import Settings
from ..specs.config import build_audit, build_routing
from ..specs.job import build_job
from ..specs.metadata import Owner, metadata
from ..specs.serving import build_autoscaler, build_deployment, build_disruption_budget, build_service
from .events import EventEmitter
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
    events: EventEmitter

    async def apply(self, observed: Observed, decision: Decision, versions: dict[str, str]) -> None:
        """Bring `decision` about. `versions`: resource versions of the objects it was made on, by name.

        Raises KubeError where a write failed; what came before it stays, and deciding again completes the rest.
        """
        key = (observed.namespace, observed.name)
        owner = Owner(observed.namespace, observed.name, observed.uid)
        if decision.finalizer and not observed.finalizer:
            await self._set_finalizer(key, versions, wanted=True)
        for update in decision.module_updates:
            await self._status(COMPILEDMODULE, owner.namespace, update.name, update.status, versions)
        if decision.audit:
            await self._append_audit(key, observed, decision)
        if decision.status != observed.status:
            await self._status(HYBRIDMODEL, owner.namespace, owner.name, decision.status, versions)
        if decision.routing is not None:
            await self._route(key, owner, decision.routing)
        failure = await self._children(key, owner, decision)
        if decision.orphan:
            await self._orphan(key, owner)
        for event in decision.events:
            self._fence()
            await self.events.emit(owner, event)
        if failure is not None:
            await self.report_fault(observed, "ApplyFailed", str(failure))
            raise failure
        if observed.finalizer and not decision.finalizer:
            await self._set_finalizer(key, versions, wanted=False)

    async def _set_finalizer(self, key: ModelKey, versions: dict[str, str], *, wanted: bool) -> None:
        """Put our finalizer on the HybridModel, or take it off; finalizers of others stay."""
        self._fence()
        name = f"{HYBRIDMODEL.kind}/{key[1]}"
        others = [f for f in self._finalizers(key) if f != FINALIZER_ORPHAN]
        finalizers = [*others, FINALIZER_ORPHAN] if wanted else others
        meta = {"resourceVersion": versions[name], "finalizers": finalizers}
        written = await self.client.merge(HYBRIDMODEL, *key, {"metadata": meta})
        if finalizers or "deletionTimestamp" not in written["metadata"]:
            versions[name] = written["metadata"]["resourceVersion"]
            self.cache.put_model("applied", written)

    def _finalizers(self, key: ModelKey) -> list[str]:
        model = self.cache.models.get(key)
        return list(model["metadata"].get("finalizers") or ()) if model is not None else []

    async def _orphan(self, key: ModelKey, owner: Owner) -> None:
        """Take the owner off what serves, so that nothing collects it when the HybridModel is gone."""
        for kind in (DEPLOYMENT, SERVICE, CONFIGMAP, PDB, HPA):
            for child in self.cache.children(kind.kind, key):
                if controller_uid(child) != owner.uid:
                    continue
                self._fence()
                meta = child["metadata"]
                others = [o for o in meta["ownerReferences"] if o["uid"] != owner.uid]
                changed = {
                    "resourceVersion": meta["resourceVersion"],
                    "ownerReferences": others,
                    "annotations": {HASH_ANNOTATION: None},
                }
                written = await self.client.merge(kind, key[0], meta["name"], {"metadata": changed})
                self.cache.put_child(kind.kind, "applied", written)

    async def report_fault(self, observed: Observed, reason: str, message: str) -> None:
        """Tell the user by an Event that one model cannot be brought on."""
        self._fence()
        owner = Owner(observed.namespace, observed.name, observed.uid)
        await self.events.emit(owner, ModelEvent(type="Warning", reason=reason, message=message))

    async def _route(self, key: ModelKey, owner: Owner, table: RoutingTable) -> None:
        """ConfigMap, then push. The table is in the status by now, so pods get it even if the ConfigMap fails."""
        self._fence()
        try:
            await self._apply_changed(CONFIGMAP, key, build_routing(owner, table))
        finally:
            if self.leading():
                self.hub.push(table)

    async def _children(self, key: ModelKey, owner: Owner, decision: Decision) -> KubeError | None:
        """Children one by one: one that is refused does not keep the others from being made."""
        spec = decision.spec
        if spec is None:
            return None
        failure: KubeError | None = None
        try:
            if decision.jobs or decision.serving is not None:
                await self.trust.ensure(owner.namespace, owner.uid)
            for new in decision.new_modules:
                await self._create_module(owner, new.name, new.spec)
        except KubeError as error:
            return error
        for name in decision.delete_jobs:
            try:
                await self._delete(JOB, key, name)
            except KubeError as error:
                failure = error
        for job in decision.jobs:
            try:
                if self.cache.child(JOB.kind, key, job.name) is None:
                    await self._create(JOB, key, build_job(job, owner, spec.jobs, self.settings))
            except KubeError as error:
                failure = error
        if decision.serving is not None:
            try:
                await self._serve(key, owner, decision.serving, spec)
            except KubeError as error:
                failure = error
        return failure

    async def _serve(self, key: ModelKey, owner: Owner, serving: DesiredServing, spec: HybridModelSpec) -> None:
        await self._apply_changed(DEPLOYMENT, key, build_deployment(serving, owner, spec, self.settings))
        await self._apply_changed(SERVICE, key, build_service(serving, owner, spec))
        for kind, manifest in (
            (PDB, build_disruption_budget(owner, spec)),
            (HPA, build_autoscaler(serving, owner, spec)),
        ):
            if manifest is not None:
                await self._apply_changed(kind, key, manifest)
            elif self._is_ours(kind, key, owner):
                await self._delete(kind, key, owner.name)
        for service in self.cache.children(SERVICE.kind, key):
            if service["metadata"]["name"] != serving.service_name and controller_uid(service) == owner.uid:
                await self._delete(SERVICE, key, service["metadata"]["name"])

    def _is_ours(self, kind: Kind, key: ModelKey, owner: Owner) -> bool:
        known = self.cache.child(kind.kind, key, owner.name)
        return known is not None and controller_uid(known) == owner.uid

    async def _delete(self, kind: Kind, key: ModelKey, name: str) -> None:
        self._fence()
        with contextlib.suppress(NotFound):
            await self.client.delete(kind, key[0], name)

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
        versions[f"{kind.kind}/{name}"] = written["metadata"]["resourceVersion"]
        if kind is HYBRIDMODEL:
            self.cache.put_model("applied", written)
        else:
            self.cache.put_child(kind.kind, "applied", written)

    async def _create(self, kind: Kind, key: ModelKey, manifest: Manifest) -> None:
        self._fence()
        created = await ensure(self.client, kind, key[0], manifest)
        if created is not None:
            logger.info("created %s %s/%s", kind.kind, key[0], manifest["metadata"]["name"])
            self.cache.put_child(kind.kind, "applied", created)

    async def _create_module(self, owner: Owner, name: str, spec: BaseModel) -> None:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": COMPILEDMODULE.kind,
            "metadata": metadata(owner, name, "module"),
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
        if known is None and kind is not CONFIGMAP and await self._belongs_to_another(kind, manifest):
            return
        self._fence()
        self.cache.put_child(kind.kind, "applied", await self.client.apply(kind, manifest))

    async def _belongs_to_another(self, kind: Kind, manifest: Manifest) -> bool:
        """Whether an object of that name is not ours: then it is left alone, and its owner noted for `observe`.

        Raises Refused where it is a Deployment, whose name is the model's and cannot be chosen otherwise.
        """
        meta = manifest["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        uid = controller_uid(manifest)
        found = await find(self.client, kind, namespace, name)
        if found is None or controller_uid(found) == uid:
            self.cache.note_foreign(kind.kind, namespace, name, None)
            return False
        owners = found["metadata"].get("ownerReferences") or []
        owner = next((f"{o['kind']}/{o['name']}" for o in owners if o.get("controller")), "someone else")
        self.cache.note_foreign(kind.kind, namespace, name, owner)
        if kind is DEPLOYMENT:
            raise Refused(
                f"metadata.name: a Deployment named {name} already belongs to {owner}; choose another name for the "
                "HybridModel."
            )
        return True

    async def recheck_service(self, namespace: str, name: str) -> None:
        """Whether a Service that belonged to someone else is free by now."""
        found = await find(self.client, SERVICE, namespace, name)
        if found is None:
            self.cache.note_foreign(SERVICE.kind, namespace, name, None)

    async def _append_audit(self, key: ModelKey, observed: Observed, decision: Decision) -> None:
        self._fence()
        namespace, model = key
        known = self.cache.child(CONFIGMAP.kind, key, audit_configmap(model))
        text = (known or {}).get("data", {}).get(AUDIT_KEY, "")
        lines = text.splitlines()
        try:
            last = audit.parse(lines[-1:])[0].sequence if lines else 0
        except EcompileError as error:
            # Someone edited the log. It is continued, so that swaps stay recorded; `verify` names the broken line.
            last = observed.status.audit_sequence
            await self.report_fault(observed, "AuditBroken", f"ConfigMap {audit_configmap(model)}: {error.message}")
        fresh = [audit.to_line(record) for record in decision.audit if record.sequence > last]
        if not fresh:
            return
        if len(text) > AUDIT_LIMIT_BYTES:
            archive = build_audit(namespace, model, AUDIT_KEY, text)
            archive["metadata"]["name"] = f"{audit_configmap(model)}-{last}"
            await ensure(self.client, CONFIGMAP, namespace, archive)
            self._fence()
            lines = []
        manifest = build_audit(namespace, model, AUDIT_KEY, "\n".join([*lines, *fresh]) + "\n")
        if known is None:
            written = await self.client.create(CONFIGMAP, namespace, manifest)
        else:
            manifest["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
            written = await self.client.replace(CONFIGMAP, manifest)
        self.cache.put_child(CONFIGMAP.kind, "applied", written)
