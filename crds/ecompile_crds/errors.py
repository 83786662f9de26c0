"""Error taxonomy: one tree, one code per cause, the same in REST answers, Job results, status and the command line.

Not here: converting foreign exceptions; that happens where they enter.

EcompileError
├── DataError      1xxx  the user's data cannot be used as it is
├── ModelError     2xxx  the user's network or a compiled module cannot be used
├── ResourceError  3xxx  something the machine or cluster must provide is missing
├── DeadlineError  4xxx  something took too long
└── InternalError  5xxx  a fault of ours
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Stable numbers. Never renumber; add at the end of a group."""

    DATA_MISSING = 1001
    DATA_MALFORMED = 1002
    DATA_SHAPE = 1003
    DATA_NOT_FINITE = 1004
    DATA_EMPTY = 1005
    DATA_DIGEST_MISMATCH = 1006
    URI_UNSUPPORTED = 1007
    SPEC_INVALID = 1008
    REQUEST_INVALID = 1009
    REQUEST_TOO_LARGE = 1010

    MODEL_MALFORMED = 2001
    MODEL_UNSUPPORTED = 2002
    MODEL_UNSAFE = 2003
    MODEL_NOT_FOUND = 2004
    BUNDLE_ALTERED = 2010
    BUNDLE_UNTRUSTED = 2011
    BUNDLE_MALFORMED = 2012
    BUNDLE_INCOMPATIBLE = 2013
    NOT_EQUIVALENT = 2020
    AUDIT_BROKEN = 2030

    COMPILER_MISSING = 3001
    COMPILER_FAILED = 3002
    STORAGE_FULL = 3003
    STORAGE_UNAVAILABLE = 3004
    OUT_OF_MEMORY = 3005
    IMAGE_UNAVAILABLE = 3006
    UNSCHEDULABLE = 3007
    CONTROL_UNAVAILABLE = 3008
    OVERLOADED = 3009
    NOT_READY = 3010

    DEADLINE_EXCEEDED = 4001
    INTERRUPTED = 4002
    REQUEST_TIMEOUT = 4003

    INTERNAL = 5001
    CRASHED = 5002


RETRYABLE: frozenset[Code] = frozenset(
    {
        Code.DATA_MISSING,
        Code.STORAGE_FULL,
        Code.STORAGE_UNAVAILABLE,
        Code.OUT_OF_MEMORY,
        Code.IMAGE_UNAVAILABLE,
        Code.UNSCHEDULABLE,
        Code.CONTROL_UNAVAILABLE,
        Code.OVERLOADED,
        Code.NOT_READY,
        Code.DEADLINE_EXCEEDED,
        Code.INTERRUPTED,
        Code.REQUEST_TIMEOUT,
        Code.INTERNAL,
        Code.CRASHED,
    }
)
"""Causes that may be gone on the next attempt without anyone changing an input."""

EXIT_STATUS: dict[int, int] = {1: 11, 2: 12, 3: 13, 4: 14, 5: 15}
"""Process exit status per group (code // 1000). Below 128, apart from 0-2 that shells and argument parsers use."""

HTTP_STATUS: dict[int, int] = {
    1: 400,
    2: 500,
    3: 503,
    4: 504,
    5: 500,
    Code.REQUEST_TOO_LARGE: 413,
    Code.MODEL_NOT_FOUND: 404,
    Code.OVERLOADED: 429,
    Code.REQUEST_TIMEOUT: 408,
}
"""HTTP status per code, else per group."""

GRPC_STATUS: dict[int, str] = {
    1: "INVALID_ARGUMENT",
    2: "FAILED_PRECONDITION",
    3: "UNAVAILABLE",
    4: "DEADLINE_EXCEEDED",
    5: "INTERNAL",
    Code.MODEL_NOT_FOUND: "NOT_FOUND",
    Code.OVERLOADED: "RESOURCE_EXHAUSTED",
}
"""Name of the gRPC status (grpc.StatusCode) per code, else per group."""


class EcompileError(Exception):
    """Base of all our errors: a code and one sentence that says what is wrong and what to do."""

    def __init__(self, code: Code, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def retryable(self) -> bool:
        """Whether trying again without changing any input can help."""
        return self.code in RETRYABLE

    @property
    def exit_status(self) -> int:
        """Process exit status for this error's group."""
        return EXIT_STATUS[int(self.code) // 1000]

    @property
    def http_status(self) -> int:
        """Status of a REST answer."""
        return HTTP_STATUS.get(self.code, HTTP_STATUS[int(self.code) // 1000])

    @property
    def grpc_status(self) -> str:
        """Name of the status of a gRPC answer."""
        return GRPC_STATUS.get(self.code, GRPC_STATUS[int(self.code) // 1000])

    def answer(self) -> dict[str, str | int | float | bool]:
        """What a client is told: error, code, retryable, and retryAfterSeconds where it is known."""
        told: dict[str, str | int | float | bool] = {
            "error": self.message,
            "code": int(self.code),
            "retryable": self.retryable,
        }
        if self.retry_after_seconds is not None:
            told["retryAfterSeconds"] = self.retry_after_seconds
        return told


class DataError(EcompileError):
    """1xxx."""


class ModelError(EcompileError):
    """2xxx."""


class ResourceError(EcompileError):
    """3xxx."""


class DeadlineError(EcompileError):
    """4xxx."""


class InternalError(EcompileError):
    """5xxx."""


ERROR_CLASSES: dict[int, type[EcompileError]] = {
    1: DataError,
    2: ModelError,
    3: ResourceError,
    4: DeadlineError,
    5: InternalError,
}
