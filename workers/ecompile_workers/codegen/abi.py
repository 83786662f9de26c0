"""The ABI of generated code, shared by printer, loader and bundle. Version 1.

int eco_run(const float *x, float *y, int64_t n, void *scratch, uint32_t *reason);
    n rows, 1 <= n <= max_rows. 0: y is written. Otherwise a fallback code, also in *reason, and y is untouched.
    scratch: scratch_bytes, aligned to 64.
const char *eco_meta(void);
    JSON: abi, inputs, outputs, max_rows, scratch_bytes, level.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..ir.graph import Array

ABI_VERSION = 1
MAX_ROWS = 64
"""Rows per call; larger batches are several calls."""
ALIGNMENT = 64


class Reason(IntEnum):
    """Why a module did not answer."""

    OK = 0
    OUTSIDE_GUARD = 1
    """A feature is outside the box, or not a number."""
    BAD_ROWS = 2
    NON_FINITE_OUTPUT = 3


@dataclass(frozen=True, kw_only=True)
class GuardBox:
    """The module answers only where lower <= x <= upper holds for every feature."""

    lower: Array
    upper: Array
