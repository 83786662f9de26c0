"""How much a pod takes on at once: requests in progress and bytes of their bodies. Above that it refuses, at once."""

from __future__ import annotations

from dataclasses import dataclass

from ecompile_crds.errors import Code, ResourceError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one pod."""

    requests: int = 512
    """In progress at once, bodies that are still arriving included."""
    body_bytes: int = 256 << 20
    """Bodies held in memory at once."""


class Admission:
    """Counts what is in progress. Used in the event loop's thread only."""

    RETRY_SECONDS = 0.2
    """Requests in progress are short; the wait only spreads the retries."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.body_bytes = 0

    def enter(self, size_bytes: int) -> None:
        """A request whose body takes so many bytes at most; pair it with `leave`.

        Raises ResourceError (OVERLOADED).
        """
        if self.requests >= self._limits.requests or (
            self.requests and self.body_bytes + size_bytes > self._limits.body_bytes
        ):
            raise ResourceError(
                Code.OVERLOADED,
                f"{self.requests} requests with {self.body_bytes >> 20} MiB are in progress; try again.",
                retry_after_seconds=self.RETRY_SECONDS,
            )
        self.requests += 1
        self.body_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """The request is answered."""
        self.requests -= 1
        self.body_bytes -= size_bytes
