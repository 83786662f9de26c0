"""Local copies of the objects we watch, by the HybridModel they belong to."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from ecompile_crds.names import LABEL_MODEL

from ..kube.client import Manifest
from ..kube.watch import Change
from .kept import Kept, keep, version_of

REMEMBERED_DELETIONS = 10_000

ModelKey = tuple[str, str]
"""(namespace, HybridModel name)."""


def is_known(manifest: Manifest, known: Kept | None) -> bool:
    """Whether `known` is this state or a later one of the same name: what we wrote comes back through the watch."""
    return known is not None and version_of(manifest) <= known.version


def controller_uid(manifest: Manifest) -> str:
    """Uid of the controlling owner; empty where there is none."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


class Cache:
    """Objects by kind and owner. Calls `changed(key)` after each change."""

    def __init__(self, changed: Callable[[ModelKey], None]) -> None:
        self._changed = changed
        self._models: dict[ModelKey, Kept] = {}
        self._children: dict[str, dict[ModelKey, dict[str, Kept]]] = defaultdict(dict)
        self._counts: Counter[str] = Counter()
        self._owners: dict[tuple[str, str, str], ModelKey] = {}
        """Model of each child, by kind, namespace and name."""
        self._foreign: dict[tuple[str, str, str], str] = {}
        self._gone: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        """Versions at which objects were deleted, the newest ones: what we wrote before may be answered after it."""

    @property
    def models(self) -> Mapping[ModelKey, Manifest]:
        """HybridModels by key; each look makes a new copy."""
        return _Manifests(self._models)

    def put_model(self, change: Change, manifest: Manifest) -> None:
        """A HybridModel changed or is gone."""
        meta = manifest["metadata"]
        key = (meta["namespace"], meta["name"])
        known = self._models.get(key)
        if self._is_past(("HybridModel", *key), change, manifest):
            return
        if change == "deleted":
            if known is None or _deletes(manifest, known):
                self._models.pop(key, None)
        elif is_known(manifest, known):
            return
        else:
            self._models[key] = keep(manifest, "HybridModel")
        self._changed(key)

    def put_child(self, kind: str, change: Change, manifest: Manifest) -> None:
        """A child changed or is gone; its owner is named by its label, or by spec.modelRef of a CompiledModule."""
        meta = manifest["metadata"]
        name = meta["name"]
        place = (kind, meta["namespace"], name)
        if self._is_past(place, change, manifest):
            return
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
        elif is_known(manifest, known):
            return
        if before is not None and (change == "deleted" or before != key):
            self._drop(place, before)
            self._changed(before)
        if change == "applied":
            self._children[kind].setdefault(key, {})[name] = keep(manifest, kind)
            self._counts[kind] += place not in self._owners
            self._owners[place] = key
            self._changed(key)

    def _is_past(self, place: tuple[str, str, str], change: Change, manifest: Manifest) -> bool:
        """Whether a state is from before its object's deletion. Notes deletions."""
        version, gone = version_of(manifest), self._gone.get(place, -1)
        if change == "applied":
            return version <= gone
        self._gone[place] = max(version, gone)
        self._gone.move_to_end(place)
        if len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)
        return False

    def _drop(self, place: tuple[str, str, str], key: ModelKey) -> None:
        kind, _, name = place
        siblings = self._children[kind][key]
        del siblings[name], self._owners[place]
        self._counts[kind] -= 1
        if not siblings:
            del self._children[kind][key]

    def delete_models_but(self, present: set[ModelKey], *, namespace: str | None, version: str) -> None:
        """A complete list was read at a resource version: HybridModels that it lacks were gone by then."""
        for key in [key for key in self._models if namespace in (None, key[0]) and key not in present]:
            self.put_model("deleted", {"metadata": {"namespace": key[0], "name": key[1], "resourceVersion": version}})

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

    def count(self, kind: str) -> int:
        """How many children of a kind there are, over all models."""
        return self._counts[kind]

    def versions(self, key: ModelKey) -> dict[str, str]:
        """Resource versions of a model and its modules, by `kind/name`."""
        model = self._models.get(key)
        if model is None:
            return {}
        modules = self._children["CompiledModule"].get(key, {})
        found = {f"CompiledModule/{name}": str(kept.version) for name, kept in modules.items()}
        return {**found, f"HybridModel/{key[1]}": str(model.version)}

    def children(self, kind: str, key: ModelKey) -> list[Manifest]:
        """Children of one kind, by name."""
        found = self._children[kind].get(key, {})
        return [found[name].manifest() for name in sorted(found)]

    def child(self, kind: str, key: ModelKey, name: str) -> Manifest | None:
        found = self._children[kind].get(key, {}).get(name)
        return found.manifest() if found is not None else None

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


class _Manifests(Mapping[ModelKey, Manifest]):
    """What is kept, as manifests."""

    def __init__(self, kept: Mapping[ModelKey, Kept]) -> None:
        self._kept = kept

    def __getitem__(self, key: ModelKey) -> Manifest:
        return self._kept[key].manifest()

    def __iter__(self) -> Iterator[ModelKey]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _deletes(deleted: Manifest, known: Kept) -> bool:
    """Whether the deletion is later than what is known: a watch may repeat one of an earlier object of the name."""
    return version_of(deleted) >= known.version
