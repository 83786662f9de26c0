"""Which buffer is where in scratch: buffers that are never in use at the same time may share memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNIT = 16
"""Floats to which offsets are rounded: one cache line."""


@dataclass
class Buffer:
    """A buffer in the making; lifetimes are positions in the sequence of calls."""

    size: int
    first: int
    last: int


def allocate(buffers: Sequence[Buffer]) -> tuple[list[int], int]:
    """Offset of each buffer, and the floats needed in all. Largest first, each as low as it fits."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, i)):
        buffer = buffers[index]
        taken = sorted(
            (offsets[other], offsets[other] + buffers[other].size)
            for other in placed
            if buffers[other].first <= buffer.last and buffer.first <= buffers[other].last
        )
        offset = 0
        for start, end in taken:
            if offset + buffer.size <= start:
                break
            offset = max(offset, -(-end // UNIT) * UNIT)
        offsets[index] = offset
        placed.append(index)
        total = max(total, offset + buffer.size)
    return offsets, -(-total // UNIT) * UNIT
