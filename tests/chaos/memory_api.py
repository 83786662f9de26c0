"""An API server in memory: resource versions and conflicts, server-side apply, watches with bookmarks and 410, owners.

What it keeps of the real one: one counter of versions; a write that changes nothing makes no version; a stale
`resourceVersion` is a 409 in PUT and in apply; `status` is a subresource; apply removes fields that this manager owned
and leaves out; lists come in pages; a watch from a version that was compacted gets 410; an object that stops to match
a label selector is DELETED in that watch; what is owned by something gone is collected later, by a call.
What it leaves out: schemas, defaults, admission, authentication, ownership of single list items. `tests/component/
test_chaos.py` runs the same life against a real server.
"""

from __future__ import annotations

import asyncio
import copy
import json
import marshal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ecompile_operator.kube.client import APPLY, MERGE, KubeClient, Manifest
from ecompile_operator.kube.errors import Gone, Unavailable, from_status
from ecompile_operator.kube.kinds import Kind
from kubernetes.client import Configuration

WITH_STATUS = {"hybridmodels", "compiledmodules", "jobs", "pods", "deployments", "services"}
"""Kinds whose status is written through a subresource only."""
WITH_GENERATION = {"hybridmodels", "compiledmodules", "jobs", "deployments"}
BOOKMARK_SECONDS = 60.0

Place = tuple[str, str, str]
"""(plural, namespace, name)."""


class Fault(Exception):
    """An answer of the API server that is not the wanted one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Change:
    """One entry of the log that watches read."""

    version: int
    type: str
    before: Manifest | None
    after: Manifest


@dataclass
class MemoryApi:
    """The server's state. `now` gives creation times."""

    now: Callable[[], datetime]
    objects: dict[Place, Manifest] = field(default_factory=dict)
    version: int = 0
    compacted: int = 0
    """Watches cannot begin before this version."""
    log: dict[str, list[Change]] = field(default_factory=dict)
    writes: list[tuple[str, Place, Manifest]] = field(default_factory=list)
    """Every write that changed something: (verb, place, object)."""
    observers: list[Callable[[str, Place, Manifest | None, Manifest], None]] = field(default_factory=list)
    _uids: int = 0
    _applied: dict[tuple[Place, str, str], Manifest] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    # Reading

    def get(self, plural: str, namespace: str, name: str) -> Manifest | None:
        return self.objects.get((plural, namespace, name))

    def all(self, plural: str, namespace: str | None = None, labels: str = "") -> list[Manifest]:
        """Objects of a kind by namespace and name."""
        places = sorted(p for p in self.objects if p[0] == plural and namespace in (None, p[1]))
        return [self.objects[place] for place in places if matches(self.objects[place], labels)]

    # Writing

    def create(self, plural: str, namespace: str, manifest: Manifest) -> Manifest:
        place = (plural, namespace, manifest["metadata"]["name"])
        if place in self.objects:
            raise Fault(409, f'{plural} "{place[2]}" already exists')
        made = duplicate(manifest)
        if plural in WITH_STATUS:
            made.pop("status", None)
        self._uids += 1
        meta = made["metadata"]
        meta.pop("resourceVersion", None)
        meta |= {
            "namespace": namespace,
            "uid": f"uid-{self._uids}",
            "creationTimestamp": self.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if plural in WITH_GENERATION:
            meta["generation"] = 1
        return self._store("create", place, None, made)

    def update(self, place: Place, change: Callable[[Manifest], None], *, verb: str = "update") -> Manifest:
        """Change a copy of an object and store it, unless nothing changed."""
        known = self.objects.get(place)
        if known is None:
            raise Fault(404, f'{place[0]} "{place[2]}" not found')
        changed = duplicate(known)
        change(changed)
        changed["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
        if changed == known:
            return known
        if place[0] in WITH_GENERATION and changed.get("spec") != known.get("spec"):
            changed["metadata"]["generation"] = known["metadata"].get("generation", 0) + 1
        return self._store(verb, place, known, changed)

    def delete(self, place: Place) -> None:
        known = self.objects.get(place)
        if known is None:
            raise Fault(404, f'{place[0]} "{place[2]}" not found')
        for key in [key for key in self._applied if key[0] == place]:
            del self._applied[key]
        self.version += 1
        gone = duplicate(known)
        gone["metadata"]["resourceVersion"] = str(self.version)
        del self.objects[place]
        self._publish(place, Change(self.version, "DELETED", known, gone))
        self.writes.append(("delete", place, gone))
        for observer in self.observers:
            observer("delete", place, known, gone)

    def collect_garbage(self) -> int:
        """Delete what is owned by something gone; how many."""
        uids = {o["metadata"]["uid"] for o in self.objects.values()}
        orphans = [
            place
            for place, found in self.objects.items()
            if any(owner["uid"] not in uids for owner in found["metadata"].get("ownerReferences") or [])
        ]
        for place in orphans:
            self.delete(place)
        return len(orphans)

    def compact(self) -> None:
        """Forget the past: watches that are behind get 410."""
        self.compacted = self.version
        for changes in self.log.values():
            changes.clear()
        self._wake()

    def _store(self, verb: str, place: Place, before: Manifest | None, after: Manifest) -> Manifest:
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        self.objects[place] = after
        self._publish(place, Change(self.version, "ADDED" if before is None else "MODIFIED", before, after))
        self.writes.append((verb, place, after))
        for observer in self.observers:
            observer(verb, place, before, after)
        return after

    def _publish(self, place: Place, change: Change) -> None:
        self.log.setdefault(place[0], []).append(change)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def news(self) -> asyncio.Event:
        """Set at the next change."""
        return self._news

    # Requests

    def handle(
        self, method: str, path: str, *, query: Mapping[str, str], body: Manifest | None, content_type: str
    ) -> Manifest:
        """One request.

        Raises Fault.
        """
        parts = path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 1:
            namespace, rest = rest[1], rest[2:]
        plural, name, sub = (*rest, "", "")[:3]
        place = (plural, namespace, name)
        if plural == "tokenreviews":
            assert body is not None
            return _review(body["spec"]["token"])
        match method:
            case "GET" if name:
                found = self.objects.get(place)
                if found is None:
                    raise Fault(404, f'{plural} "{name}" not found')
                return found
            case "GET":
                return self._list(plural, namespace or None, query)
            case "POST":
                assert body is not None
                return self.create(plural, namespace, body)
            case "PUT":
                assert body is not None
                return self._replace(place, body)
            case "PATCH" if content_type == APPLY:
                assert body is not None
                return self._apply(place, body, sub, query.get("fieldManager", ""))
            case "PATCH" if content_type == MERGE:
                assert body is not None
                return self.update(place, lambda o: merge_patch(o, body, plural in WITH_STATUS and sub != "status"))
            case "DELETE":
                self.delete(place)
                return {}
        raise Fault(405, f"{method} {path}")

    def _list(self, plural: str, namespace: str | None, query: Mapping[str, str]) -> Manifest:
        wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
        found = [o for o in self.all(plural, namespace, query.get("labelSelector", ""))]
        found = [o for o in found if wanted in ("", o["metadata"]["name"])]
        start = int(query.get("continue", "0"))
        end = start + int(query.get("limit", "500"))
        meta = {"resourceVersion": str(self.version), "continue": str(end) if end < len(found) else ""}
        return {"metadata": meta, "items": found[start:end]}

    def _replace(self, place: Place, body: Manifest) -> Manifest:
        self._check_version(place, body)

        def change(known: Manifest) -> None:
            kept = {
                k: known["metadata"][k] for k in ("uid", "creationTimestamp", "generation") if k in known["metadata"]
            }
            status = known.get("status")
            known.clear()
            known.update(duplicate(body))
            known["metadata"] |= kept
            if place[0] in WITH_STATUS and status is not None:
                known["status"] = status

        return self.update(place, change)

    def _apply(self, place: Place, body: Manifest, sub: str, manager: str) -> Manifest:
        wanted = {k: v for k, v in duplicate(body).items() if k not in ("apiVersion", "kind")}
        wanted["metadata"] = {
            k: v for k, v in wanted["metadata"].items() if k not in ("name", "namespace", "resourceVersion", "uid")
        }
        if place[0] in WITH_STATUS:
            wanted = {"status": wanted.get("status", {})} if sub else {k: v for k, v in wanted.items() if k != "status"}
        known = self.objects.get(place)
        if known is None:
            if sub or body["metadata"].get("resourceVersion"):
                raise Fault(404 if sub else 409, f'{place[0]} "{place[2]}" not found')
            self._applied[place, manager, sub] = wanted
            return self.create(place[0], place[1], body)
        self._check_version(place, body)
        owned = self._applied.get((place, manager, sub), {})

        def change(found: Manifest) -> None:
            _remove(found, owned, wanted)
            _merge(found, wanted)

        done = self.update(place, change, verb="apply")
        self._applied[place, manager, sub] = wanted
        return done

    def _check_version(self, place: Place, body: Manifest) -> None:
        known = self.objects.get(place)
        if known is None:
            raise Fault(404, f'{place[0]} "{place[2]}" not found')
        asked = body["metadata"].get("resourceVersion")
        if asked and asked != known["metadata"]["resourceVersion"]:
            raise Fault(409, "the object has been modified; please apply your changes to the latest version")
        uid = body["metadata"].get("uid")
        if uid and uid != known["metadata"]["uid"]:
            raise Fault(409, f"the UID in the precondition ({uid}) is not the object's")


def _review(token: str) -> Manifest:
    """Tokens are `namespace/pod`."""
    namespace, _, pod = token.partition("/")
    extra = {"authentication.kubernetes.io/pod-name": [pod]}
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"status": {"authenticated": True, "audiences": ["ecompile"], "user": user}}


def matches(manifest: Manifest, selector: str) -> bool:
    """Equality selectors only."""
    labels = manifest["metadata"].get("labels") or {}
    wanted = [part.split("=", 1) for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, value in wanted)


def duplicate(manifest: Manifest) -> Manifest:
    """A deep copy; of what is JSON, marshal makes one ten times as fast as `copy.deepcopy`."""
    made: Manifest = marshal.loads(marshal.dumps(manifest))
    return made


def _merge(target: Manifest, wanted: Manifest) -> None:
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _remove(target: Manifest, owned: Manifest, wanted: Manifest) -> None:
    """Take out what was owned and is not wanted any more."""
    for key, value in owned.items():
        if key not in target:
            continue
        if isinstance(value, dict) and isinstance(target[key], dict) and isinstance(wanted.get(key, {}), dict):
            _remove(target[key], value, wanted.get(key, {}))
            if not target[key] and key not in wanted:
                del target[key]
        elif key not in wanted:
            del target[key]


def merge_patch(target: Manifest, patch: Manifest, without_status: bool) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        if key == "status" and without_status:
            continue
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.setdefault(key, {})
            merge_patch(inner, value, False)
        else:
            target[key] = value


class MemoryClient(KubeClient):
    """The operator's own client, whose requests go to a `MemoryApi` and take a moment."""

    def __init__(self, api: MemoryApi, *, latency_seconds: float = 0.002) -> None:
        super().__init__(Configuration())
        self.api = api
        self.latency_seconds = latency_seconds

    async def before(self, method: str, path: str) -> None:
        """Called before a request has an effect: faults go here."""
        await asyncio.sleep(self.latency_seconds)

    async def after(self, method: str, path: str) -> None:
        """Called when it had its effect and the answer is on its way."""
        await asyncio.sleep(self.latency_seconds)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        accept: str = "application/json",
    ) -> str:
        sent = duplicate(body) if body is not None else None  # type: ignore[arg-type]  # a manifest
        try:
            await self.before(method, path)
            answer = json.dumps(
                self.api.handle(method, path, query=dict(query or {}), body=sent, content_type=content_type)
            )
            await self.after(method, path)
        except Fault as fault:
            self.answers += 1
            raise from_status(fault.status, str(fault)) from fault
        self.answers += 1
        return answer

    async def watch(
        self, kind: Kind, namespace: str | None, *, labels: str, resource_version: str, timeout_seconds: int
    ) -> AsyncIterator[tuple[str, Manifest]]:
        await self.before("WATCH", kind.path(namespace))
        position = int(resource_version)
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_seconds
        bookmark = loop.time() + BOOKMARK_SECONDS
        while True:
            if position < self.api.compacted:
                raise Gone("too old resource version", status=410)
            news = self.api.news()
            for change in [c for c in self.api.log.get(kind.plural, []) if c.version > position]:
                position = change.version
                event = _as_seen(change, namespace, labels)
                if event is not None:
                    async for each in self.deliver(event):
                        yield each
            if loop.time() >= ends:
                return
            try:
                async with asyncio.timeout(min(bookmark, ends) - loop.time()):
                    await news.wait()
            except TimeoutError:
                if loop.time() >= bookmark:
                    bookmark += BOOKMARK_SECONDS
                    # Everything up to now was looked at, so that the version of now is safe to start from.
                    position = max(position, self.api.version)
                    yield "BOOKMARK", {"metadata": {"resourceVersion": str(position)}}

    async def deliver(self, event: tuple[str, Manifest]) -> AsyncIterator[tuple[str, Manifest]]:
        """Events as they arrive: a place for delays, repetitions and cuts."""
        await asyncio.sleep(self.latency_seconds)
        yield event[0], duplicate(event[1])


def _as_seen(change: Change, namespace: str | None, labels: str) -> tuple[str, Manifest] | None:
    """A change as a watch with a selector sees it; None where it does not."""
    if namespace is not None and change.after["metadata"].get("namespace") != namespace:
        return None
    was = change.before is not None and matches(change.before, labels)
    now = change.type != "DELETED" and matches(change.after, labels)
    if not was and not now:
        return None
    type_ = "DELETED" if not now else ("MODIFIED" if was else "ADDED")
    return type_, change.after


__all__ = ["Change", "Fault", "MemoryApi", "MemoryClient", "Place", "Unavailable", "matches"]
Json = dict[str, Any]
