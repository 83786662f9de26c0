"""Local copies of the objects we watch, by the HybridModel they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from ecompile_crds.names import LABEL_MODEL

from ..kube.client import Manifest
from ..kube.watch import Change

ModelKey = tuple[str, str]
"""(namespace, HybridModel name)."""


def is_older(manifest: Manifest, known: Manifest | None) -> bool:
    """Whether `known` is a later state of the same name: what we wrote comes back late through the watch."""
    return known is not None and version_of(manifest) < version_of(known)


def version_of(manifest: Manifest) -> int:
    """The resource version as a number: comparable within one kind (KEP-5504)."""
    return int(manifest["metadata"].get("resourceVersion") or 0)


def trim(manifest: Manifest) -> Manifest:
    """Without managed fields, which are half of an object's size and which nobody here reads."""
    meta = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    return {**manifest, "metadata": meta}


def controller_uid(manifest: Manifest) -> str:
    """Uid of the controlling owner; empty where there is none."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


class Cache:
    """Objects by kind and owner. Calls `changed(key)` after each change."""

    def __init__(self, changed: Callable[[ModelKey], None]) -> None:
        self._changed = changed
        self.models: dict[ModelKey, Manifest] = {}
        self._children: dict[str, dict[ModelKey, dict[str, Manifest]]] = defaultdict(dict)
        self._owners: dict[tuple[str, str, str], ModelKey] = {}
        """Model of each child, by kind, namespace and name."""
        self._foreign: dict[tuple[str, str, str], str] = {}

    def put_model(self, change: Change, manifest: Manifest) -> None:
        """A HybridModel changed or is gone."""
        meta = manifest["metadata"]
        key = (meta["namespace"], meta["name"])
        known = self.models.get(key)
        if change == "deleted":
            if known is None or _deletes(manifest, known):
                self.models.pop(key, None)
        elif is_older(manifest, known):
            return
        else:
            self.models[key] = trim(manifest)
        self._changed(key)

    def put_child(self, kind: str, change: Change, manifest: Manifest) -> None:
        """A child changed or is gone; its owner is named by its label, or by spec.modelRef of a CompiledModule."""
        meta = manifest["metadata"]
        name = meta["name"]
        place = (kind, meta["namespace"], name)
        before = self._owners.get(place)
        model = manifest.get("spec", {}).get("modelRef") if kind == "CompiledModule" else None
        owner = model or meta.get("labels", {}).get(LABEL_MODEL)
        key = (meta["namespace"], owner) if owner is not None else before
        if key is None:
            return
        known = self._children[kind].get(before, {}).get(name) if before is not None else None
        if change == "deleted":
            if known is None or not _deletes(manifest, known):
                return
        elif is_older(manifest, known):
            return
        if before is not None and (change == "deleted" or before != key):
            self._drop(place, before)
            self._changed(before)
        if change == "applied":
            self._children[kind].setdefault(key, {})[name] = trim(manifest)
            self._owners[place] = key
            self._changed(key)

    def _drop(self, place: tuple[str, str, str], key: ModelKey) -> None:
        kind, _, name = place
        siblings = self._children[kind][key]
        del siblings[name], self._owners[place]
        if not siblings:
            del self._children[kind][key]

    def replace_all(self, kind: str, items: Iterable[Manifest], *, namespace: str | None, version: str) -> None:
        """A complete list of a kind was read at a resource version: what it lacks was gone by then."""
        present = set()
        for item in items:
            present.add((item["metadata"]["namespace"], item["metadata"]["name"]))
            self._put(kind, "applied", item)
        if kind == "HybridModel":
            places = [key for key in self.models if namespace in (None, key[0])]
        else:
            places = [(p[1], p[2]) for p in self._owners if p[0] == kind and namespace in (None, p[1])]
        for gone in set(places) - present:
            stub = {"metadata": {"namespace": gone[0], "name": gone[1], "resourceVersion": version}}
            self._put(kind, "deleted", stub)

    def _put(self, kind: str, change: Change, manifest: Manifest) -> None:
        if kind == "HybridModel":
            self.put_model(change, manifest)
        else:
            self.put_child(kind, change, manifest)

    def replace_model(self, kind: str, key: ModelKey, items: Iterable[Manifest], *, version: str) -> None:
        """A complete list of one model's objects of a kind (or the model itself) was read at a resource version."""
        listed = {item["metadata"]["name"]: item for item in items}
        known = [key[1]] if kind == "HybridModel" else list(self._children[kind].get(key, {}))
        for name in known:
            if name not in listed:
                stub = {"metadata": {"namespace": key[0], "name": name, "resourceVersion": version}}
                self._put(kind, "deleted", stub)
        for item in listed.values():
            self._put(kind, "applied", item)

    def children(self, kind: str, key: ModelKey) -> list[Manifest]:
        """Children of one kind, by name."""
        found = self._children[kind].get(key, {})
        return [found[name] for name in sorted(found)]

    def child(self, kind: str, key: ModelKey, name: str) -> Manifest | None:
        return self._children[kind].get(key, {}).get(name)

    def note_foreign(self, kind: str, namespace: str, name: str, owner: str | None) -> None:
        """An object of that name belongs to `owner` (`kind/name`), or to nobody else any more (None)."""
        if owner is None:
            self._foreign.pop((kind, namespace, name), None)
        else:
            self._foreign[(kind, namespace, name)] = owner

    def other_owner(self, kind: str, key: ModelKey, name: str) -> str | None:
        """`kind/name` of who else owns the object of that name in the model's namespace; None where nobody does."""
        owner = self._owners.get((kind, key[0], name))
        if owner is not None and owner != key:
            return f"HybridModel/{owner[1]}"
        return self._foreign.get((kind, key[0], name))


def _deletes(deleted: Manifest, known: Manifest) -> bool:
    """Whether the deletion is later than what is known: a watch may repeat one of an earlier object of the name."""
    return version_of(deleted) >= version_of(known)
