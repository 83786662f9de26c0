"""Leader election on a coordination.k8s.io Lease, as client-go does it: no clock of another machine is compared.

A candidate watches whether the record changes; only when it has not changed for the whole lease duration on the
candidate's own clock does it take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from .kube.client import KubeClient, Manifest
from .kube.errors import Conflict, KubeError, NotFound
from .kube.kinds import LEASE

logger = logging.getLogger(__name__)

LEASE_NAME = "ecompile-operator"
LEASE_SECONDS = 15.0
RENEW_DEADLINE_SECONDS = 10.0
"""A leader that could not renew for this long stops leading, well before another may take over."""
RETRY_SECONDS = 2.0


@dataclass
class Seen:
    """The record as last seen, and when it last changed on our clock."""

    record: tuple[str, str] = ("", "")
    at: float = 0.0


class LeaderElection:
    """Holds or waits for the Lease."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        identity: str,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._sleep = sleep
        self._seen = Seen()
        self._renewed_at: float | None = None
        self._lease: Manifest | None = None

    def leading(self) -> bool:
        """Whether we hold the lease and renewed it recently enough to write."""
        return self._renewed_at is not None and self._clock() - self._renewed_at < RENEW_DEADLINE_SECONDS

    async def acquire(self) -> None:
        """Wait until we are the leader."""
        while not await self._try():
            await self._sleep(RETRY_SECONDS)
        logger.info("leader: %s", self._identity)

    async def hold(self) -> None:
        """Renew; returns when the lease is lost."""
        while True:
            await self._sleep(RETRY_SECONDS)
            if not await self._try() and not self.leading():
                logger.error("lease lost: %s", self._identity)
                self._renewed_at = None
                return

    async def release(self) -> None:
        """Give the lease up, so that another leads at once."""
        if not self.leading() or self._lease is None:
            return
        self._renewed_at = None
        lease = {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
        try:
            await self._client.replace(LEASE, lease)
        except KubeError as error:
            logger.warning("lease not released: %s", error)

    async def _try(self) -> bool:
        try:
            return await self._take_or_renew()
        except Conflict:
            return False
        except KubeError as error:
            logger.warning("lease: %s", error)
            return False

    async def _take_or_renew(self) -> bool:
        asked_at = self._clock()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "acquireTime": now,
            "renewTime": now,
        }
        try:
            lease = await self._client.get(LEASE, self._namespace, LEASE_NAME)
        except NotFound:
            meta = {"name": LEASE_NAME, "namespace": self._namespace}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}
            self._lease = await self._client.create(LEASE, self._namespace, body)
            self._renewed_at = asked_at
            return True
        held = lease.get("spec", {})
        holder = held.get("holderIdentity") or ""
        record = (holder, str(held.get("renewTime")))
        if record != self._seen.record:
            self._seen = Seen(record, self._clock())
        expired = self._clock() - self._seen.at >= float(held.get("leaseDurationSeconds") or LEASE_SECONDS)
        if holder not in ("", self._identity) and not expired:
            self._renewed_at = None
            return False
        transitions = int(held.get("leaseTransitions") or 0)
        if holder == self._identity:
            spec["acquireTime"] = held.get("acquireTime", now)
        else:
            transitions += 1
        lease["spec"] = {**spec, "leaseTransitions": transitions}
        self._lease = await self._client.replace(LEASE, lease)
        self._renewed_at = asked_at
        return True
