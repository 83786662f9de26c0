"""Errors of the API server, converted where they enter.

KubeError
├── NotFound        404
├── Conflict        409
├── Gone            410  a watch's resource version is too old: list again
├── Refused         400, 403, 422  trying again does not help until something else changes
└── Unavailable     429, 5xx and connection errors: try again later
"""

from __future__ import annotations


class KubeError(Exception):
    """Base; the message is the API server's own."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFound(KubeError):
    """404."""


class Conflict(KubeError):
    """409: already exists, or changed since it was read."""


class Gone(KubeError):
    """410."""


class Refused(KubeError):
    """The request itself is not accepted."""


class Unavailable(KubeError):
    """The API server cannot be reached or asks to wait."""


def from_status(status: int, message: str) -> KubeError:
    """The error for an HTTP status."""
    match status:
        case 404:
            return NotFound(message, status=status)
        case 409:
            return Conflict(message, status=status)
        case 410:
            return Gone(message, status=status)
        case 429:
            return Unavailable(message, status=status)
        case _ if status >= 500:
            return Unavailable(message, status=status)
        case _:
            return Refused(message, status=status)
