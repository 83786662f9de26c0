"""List, then watch, then again: one endless stream of changes per kind, restricted to our labels.

Kopf filters by label on the client side and would stream every Pod of the cluster to us; this asks the server to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Literal

from .client import KubeClient, Manifest
from .errors import Gone, KubeError
from .kinds import Kind

logger = logging.getLogger(__name__)

WATCH_SECONDS = 240
"""The server ends a watch after this; shorter than common load balancers' idle limits."""
MAX_BACKOFF_SECONDS = 10.0
GONE_SECONDS = 0.2
RELIST_AFTER_FAILURES = 3
"""Failures in a row after which the known resource version is not trusted any more."""

Change = Literal["applied", "deleted"]
Sink = Callable[[Change, Manifest], None]
Identity = tuple[str, str]


class Watcher:
    """Keeps `sink` informed of all objects of one kind with the given labels."""

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        labels: str,
        namespaces: tuple[str, ...],
        sink: Sink,
        clock: Callable[[], float],
    ) -> None:
        self.kind = kind
        self._client = client
        self._labels = labels
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._sink = sink
        self._clock = clock
        self._known: dict[str | None, set[Identity]] = {n: set() for n in self._namespaces}
        """What the sink was told of, so that a deletion which a watch missed can be told as well."""
        self.synced = asyncio.Event()
        self._versions: dict[str | None, str] = dict.fromkeys(self._namespaces, "")
        """Resource version to watch from; empty: list first."""
        self._failures: dict[str | None, int] = dict.fromkeys(self._namespaces, 0)
        self._listed: set[str | None] = set()
        self.last_contact = clock()
        """Monotonic time of the last answer from the server."""

    async def run(self) -> None:
        """Never returns; survives any failure of the server."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._run(namespace))

    async def _run(self, namespace: str | None) -> None:
        while True:
            try:
                if not self._versions[namespace]:
                    await self._relist(namespace)
                await self._follow(namespace)
            except Gone:
                self._versions[namespace] = ""
                await asyncio.sleep(GONE_SECONDS * random.uniform(0.5, 1.0))
            except KubeError as error:
                self._failures[namespace] += 1
                failures = self._failures[namespace]
                wait = min(0.2 * 2.0 ** min(failures, 10), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
                logger.warning("watch of %s: %s; again in %.1f s", self.kind.plural, error, wait)
                if failures >= RELIST_AFTER_FAILURES:
                    self._versions[namespace] = ""
                await asyncio.sleep(wait)

    def _heard(self, namespace: str | None) -> None:
        self.last_contact = self._clock()
        self._failures[namespace] = 0

    async def _relist(self, namespace: str | None) -> None:
        known = self._known[namespace]
        gone, version = set(known), ""
        async for page in self._client.pages(self.kind, namespace, labels=self._labels):
            self._heard(namespace)
            version = page.version
            for item in page.items:
                key = identity(item)
                gone.discard(key)
                known.add(key)
                self._sink("applied", item)
        for key in gone:
            known.discard(key)
            meta = {"namespace": key[0], "name": key[1], "resourceVersion": version}
            self._sink("deleted", {"metadata": meta})
        self._listed.add(namespace)
        if len(self._listed) == len(self._namespaces):
            self.synced.set()
        self._versions[namespace] = version

    async def _follow(self, namespace: str | None) -> None:
        known = self._known[namespace]
        stream = self._client.watch(
            self.kind,
            namespace,
            labels=self._labels,
            resource_version=self._versions[namespace],
            timeout_seconds=WATCH_SECONDS,
        )
        async for type_, item in stream:
            self._heard(namespace)
            self._versions[namespace] = item["metadata"]["resourceVersion"]
            if type_ == "BOOKMARK":
                continue
            if type_ == "DELETED":
                known.discard(identity(item))
                self._sink("deleted", item)
            else:
                known.add(identity(item))
                self._sink("applied", item)


def identity(manifest: Manifest) -> Identity:
    """(namespace, name)."""
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
