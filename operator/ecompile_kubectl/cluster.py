"""Everything that belongs to one HybridModel, read from the API server with the caller's own rights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from ecompile_crds.names import LABEL_MODEL
from ecompile_operator.control.hub import Hub
from ecompile_operator.decide.observed import Observed
from ecompile_operator.kube.client import KubeClient, Manifest, find
from ecompile_operator.kube.errors import KubeError
from ecompile_operator.kube.kinds import (
    COMPILEDMODULE,
    CONFIGMAP,
    DEPLOYMENT,
    EVENT,
    HYBRIDMODEL,
    JOB,
    POD,
    SERVICE,
    Kind,
)
from ecompile_operator.observe.cache import Cache
from ecompile_operator.observe.observe import observe

from .problem import Problem
from .recorded import recorded_reports

CHILDREN: tuple[Kind, ...] = (COMPILEDMODULE, JOB, POD, DEPLOYMENT, SERVICE, CONFIGMAP)


@dataclass
class Found:
    """One model with its children, as read."""

    model: Manifest
    children: dict[str, list[Manifest]]
    unreadable: list[str] = field(default_factory=list)
    """Sentences about kinds that the caller may not read."""

    @property
    def namespace(self) -> str:
        return str(self.model["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.model["metadata"]["name"])

    def observed(self, now: datetime) -> Observed:
        """What the operator would observe; pods' reports as the operator last recorded them in the status."""
        cache = Cache(lambda key: None)
        cache.put_model("applied", self.model)
        for kind, found in self.children.items():
            for manifest in found:
                cache.put_child(kind, "applied", manifest)
        hub = Hub(lambda key: None, lambda: now)
        seen = observe(cache, hub, (self.namespace, self.name), artifacts_uri="file:///artifacts")
        assert seen is not None, "the model was put into the cache above"
        return replace(seen, reports=recorded_reports(seen, now))


async def read(client: KubeClient, namespace: str, name: str) -> Found:
    """One model and its children.

    Raises Problem where the model is not there, KubeError where the server does not answer.
    """
    model = await find(client, HYBRIDMODEL, namespace, name)
    if model is None:
        known, _ = await client.list(HYBRIDMODEL, namespace)
        names = ", ".join(sorted(str(m["metadata"]["name"]) for m in known)[:10])
        there = f"there are: {names}" if names else "it holds none; see `kubectl get hm -A`"
        raise Problem(f"There is no HybridModel named {name} in namespace {namespace}; {there}.")
    found = Found(model=model, children={})
    for kind in CHILDREN:
        try:
            items, _ = await client.list(kind, namespace, labels=f"{LABEL_MODEL}={name}")
        except KubeError as error:
            found.unreadable.append(f"{kind.plural} cannot be read: {error}")
            continue
        found.children[kind.kind] = items
    return found


async def events_of(client: KubeClient, found: Found) -> list[Manifest]:
    """Events about the model and its children, oldest first."""
    items, _ = await client.list(EVENT, found.namespace)
    uids = {found.model["metadata"].get("uid")}
    uids |= {m["metadata"].get("uid") for children in found.children.values() for m in children}
    mine = [e for e in items if e.get("involvedObject", {}).get("uid") in uids]
    return sorted(mine, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
