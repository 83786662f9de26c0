"""A typed stand-in for KubeClient: objects in a dict, resource versions, 404 and 409 as the API server gives them."""

from __future__ import annotations

from typing import Any

from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import Conflict, NotFound, Unavailable
from ecompile_operator.kube.kinds import Kind
from kubernetes.client import Configuration


class FakeClient(KubeClient):
    """Only what the tests need of the API server."""

    def __init__(self) -> None:
        super().__init__(Configuration())
        self.objects: dict[tuple[str, str | None, str], Manifest] = {}
        self.version = 0
        self.away = False
        self.calls: list[str] = []

    def _check(self, call: str) -> None:
        self.calls.append(call)
        if self.away:
            raise Unavailable("connection refused")

    def _store(self, place: tuple[str, str | None, str], manifest: Manifest) -> Manifest:
        self.version += 1
        stored = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.version)}}
        self.objects[place] = stored
        return stored

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        self._check(f"get {kind.kind} {name}")
        found = self.objects.get((kind.kind, namespace, name))
        if found is None:
            raise NotFound(f"{kind.plural} {name} not found", status=404)
        return found

    async def create(self, kind: Kind, namespace: str | None, manifest: Manifest) -> Manifest:
        name = manifest["metadata"]["name"]
        self._check(f"create {kind.kind} {name}")
        if (kind.kind, namespace, name) in self.objects:
            raise Conflict(f"{name} already exists", status=409)
        return self._store((kind.kind, namespace, name), manifest)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        meta = manifest["metadata"]
        self._check(f"replace {kind.kind} {meta['name']}")
        place = (kind.kind, meta["namespace"], meta["name"])
        if self.objects[place]["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict("the object has been modified", status=409)
        return self._store(place, manifest)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        self._check(f"merge {kind.kind} {name}")
        found: dict[str, Any] = await self.get(kind, namespace, name)
        return self._store((kind.kind, namespace, name), {**found, **patch, "metadata": found["metadata"]})

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str | None = None) -> Manifest:
        meta = manifest["metadata"]
        self._check(f"apply {kind.kind} {meta['name']}")
        return self._store((kind.kind, meta.get("namespace"), meta["name"]), manifest)

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Manifest], str]:
        self._check(f"list {kind.kind}")
        wanted = fields.removeprefix("metadata.name=")
        places = [p for p in self.objects if p[:2] == (kind.kind, namespace) and wanted in ("", p[2])]
        return [self.objects[place] for place in places], str(self.version)
