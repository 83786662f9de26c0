"""Local copies of the objects we watch, by the HybridModel they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ecompile_crds.names import LABEL_MODEL

from ..kube.client import Manifest
from ..kube.watch import Change

ModelKey = tuple[str, str]
"""(namespace, HybridModel name)."""


def is_older(manifest: Manifest, known: Manifest | None) -> bool:
    """Whether `known` is a later state of the same object: what we wrote comes back late through the watch."""
    if known is None or known["metadata"].get("uid") != manifest["metadata"].get("uid"):
        return False
    return version_of(manifest) < version_of(known)


def version_of(manifest: Manifest) -> int:
    """The resource version as a number (comparable, KEP-5504)."""
    return int(manifest["metadata"].get("resourceVersion") or 0)


def trim(manifest: Manifest) -> Manifest:
    """Without managed fields, which are half of an object's size and which nobody here reads."""
    meta = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    return {**manifest, "metadata": meta}


class Cache:
    """Objects by kind and owner. Calls `changed(key)` after each change."""

    def __init__(self, changed: Callable[[ModelKey], None]) -> None:
        self._changed = changed
        self.models: dict[ModelKey, Manifest] = {}
        self._children: dict[str, dict[ModelKey, dict[str, Manifest]]] = defaultdict(lambda: defaultdict(dict))

    def put_model(self, change: Change, manifest: Manifest) -> None:
        """A HybridModel changed or is gone."""
        meta = manifest["metadata"]
        key = (meta["namespace"], meta["name"])
        if change == "deleted":
            self.models.pop(key, None)
        elif is_older(manifest, self.models.get(key)):
            return
        else:
            self.models[key] = trim(manifest)
        self._changed(key)

    def put_child(self, kind: str, change: Change, manifest: Manifest) -> None:
        """A child changed or is gone; its owner is named by its label, or by spec.modelRef of a CompiledModule."""
        meta = manifest["metadata"]
        model = manifest.get("spec", {}).get("modelRef") if kind == "CompiledModule" else None
        owner = model or meta.get("labels", {}).get(LABEL_MODEL)
        if owner is None:
            return
        key = (meta["namespace"], owner)
        children = self._children[kind][key]
        if change == "deleted":
            children.pop(meta["name"], None)
            if not children:
                del self._children[kind][key]
        elif is_older(manifest, children.get(meta["name"])):
            return
        else:
            children[meta["name"]] = trim(manifest)
        self._changed(key)

    def children(self, kind: str, key: ModelKey) -> list[Manifest]:
        """Children of one kind, by name."""
        found = self._children[kind].get(key, {})
        return [found[name] for name in sorted(found)]

    def child(self, kind: str, key: ModelKey, name: str) -> Manifest | None:
        return self._children[kind].get(key, {}).get(name)

    def owners_of(self, kind: str, namespace: str, name: str) -> list[ModelKey]:
        """Models under whose label an object of that name is known."""
        return [key for key, children in self._children[kind].items() if key[0] == namespace and name in children]
