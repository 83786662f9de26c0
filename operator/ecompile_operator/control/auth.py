"""Who is calling: projected tokens checked by TokenReview."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ecompile_crds.names import TOKEN_AUDIENCE

from ..kube.client import KubeClient
from ..kube.kinds import TOKENREVIEW

CACHE_SECONDS = 60.0
MAX_CACHED = 50_000
REVIEWS_AT_A_TIME = 16
"""When all pods attach at once, after a restart, their reviews must not take every connection to the API server."""
POD_NAME_EXTRA = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True)
class Caller:
    """An authenticated Pod."""

    namespace: str
    pod: str


class Authenticator:
    """Answers who holds a token; remembers each answer for a minute."""

    def __init__(self, client: KubeClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[str, tuple[float, Caller | None]] = {}
        self._turns = asyncio.Semaphore(REVIEWS_AT_A_TIME)

    async def caller(self, token: str) -> Caller | None:
        """The Pod that the token was projected into; None where it is not valid for us.

        Raises KubeError where the API server cannot be asked.
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._known.get(digest)
        if known is not None and known[0] > self._clock():
            return known[1]
        async with self._turns:
            review = await self._client.create(
                TOKENREVIEW,
                None,
                {
                    "apiVersion": TOKENREVIEW.api_version,
                    "kind": TOKENREVIEW.kind,
                    "spec": {"token": token, "audiences": [TOKEN_AUDIENCE]},
                },
            )
        status = review.get("status", {})
        caller = None
        if status.get("authenticated") and TOKEN_AUDIENCE in status.get("audiences", []):
            user = status.get("user", {})
            parts = user.get("username", "").split(":")
            pods = user.get("extra", {}).get(POD_NAME_EXTRA, [])
            if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4 and pods:
                caller = Caller(namespace=parts[2], pod=pods[0])
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[digest] = (self._clock() + CACHE_SECONDS, caller)
        return caller
