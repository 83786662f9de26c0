"""Read-only data of a module: weights and other constants, each part aligned and kept once."""

from __future__ import annotations

import hashlib

import numpy as np

from ..ir.graph import Array
from .abi import ALIGNMENT


class Blob:
    """Grows; equal parts share one place."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._places: dict[bytes, int] = {}

    def put(self, values: Array) -> int:
        """Keep float32 values; returns their offset in floats."""
        content = np.ascontiguousarray(values, dtype="<f4").tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._data += b"\0" * (-len(self._data) % ALIGNMENT)
            self._places[key] = len(self._data) // 4
            self._data += content
        return self._places[key]

    def content(self) -> bytes:
        """Padded at the end, so that a full vector can be loaded from the last element on."""
        return bytes(self._data) + b"\0" * (-len(self._data) % ALIGNMENT + ALIGNMENT)
