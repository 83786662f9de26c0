"""Kubernetes Events about our objects. A repeated message raises the count of one Event instead of making another."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from ecompile_crds.names import API_VERSION, FIELD_MANAGER, short_hash

from ..decide.decision import ModelEvent
from ..kube.client import KubeClient, Manifest
from ..kube.errors import Conflict, KubeError, NotFound
from ..kube.kinds import COMPILEDMODULE, EVENT, HYBRIDMODEL
from ..observe.cache import Cache
from ..specs.metadata import Owner

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1024
"""The API server refuses longer ones."""
REMEMBERED = 4096
"""Events whose count is known here; an older one starts again at 2."""
QUIET_SECONDS = 10.0
"""The same message about the same object is not written again within this time."""


class EventEmitter:
    """Writes Events; losing one is logged, never fatal."""

    def __init__(self, client: KubeClient, cache: Cache, *, instance: str, now: Callable[[], datetime]) -> None:
        self._client = client
        self._cache = cache
        self._instance = instance
        self._now = now
        self._written: OrderedDict[str, tuple[int, datetime]] = OrderedDict()
        """Count and time of the newest write, by name."""

    async def emit(self, owner: Owner, event: ModelEvent) -> None:
        """Create the Event, or raise its count."""
        now = self._now().astimezone(UTC)
        manifest = self._manifest(owner, event, now)
        name = manifest["metadata"]["name"]
        count, at = self._written.get(name, (0, None))
        if at is not None and (now - at).total_seconds() < QUIET_SECONDS:
            return
        try:
            if count == 0:
                try:
                    await self._client.create(EVENT, owner.namespace, manifest)
                    count = 1
                except Conflict:
                    count = await self._raise(owner.namespace, manifest, 2)
            else:
                count = await self._raise(owner.namespace, manifest, count + 1)
        except NotFound:
            count = 0  # it has expired; the next one is created anew
        except KubeError as error:
            logger.warning("event %s about %s/%s not written: %s", event.reason, owner.namespace, owner.name, error)
        self._written[name] = (count, now)
        self._written.move_to_end(name)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)

    async def _raise(self, namespace: str, manifest: Manifest, count: int) -> int:
        patch = {"count": count, "lastTimestamp": manifest["lastTimestamp"]}
        await self._client.merge(EVENT, namespace, manifest["metadata"]["name"], patch)
        return count

    def _manifest(self, owner: Owner, event: ModelEvent, now: datetime) -> Manifest:
        kind, name, uid = HYBRIDMODEL, owner.name, owner.uid
        if event.module is not None:
            kind, name = COMPILEDMODULE, event.module
            known = self._cache.child(kind.kind, (owner.namespace, owner.name), name)
            uid = known["metadata"].get("uid", "") if known is not None else ""
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{name}.{short_hash(uid, event.type, event.reason, event.message)}",
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
            "message": event.message[:MAX_MESSAGE],
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }
