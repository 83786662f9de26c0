"""Records passed from one process to another through shared memory: one writer, one reader, no lock, no system call.

A full ring refuses; it never waits. Layout, little-endian: bytes written and bytes read so far (uint64 each), then the
ring. A record is its length (uint32) and its bytes, at a multiple of 8; it never wraps: where it does not fit before
the end, the rest of the ring is left out (length SKIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..codegen._native import fence

HEAD_BYTES: Final = 16
SKIP: Final = 0xFFFFFFFF
ALIGN: Final = 8


class Ring:
    """One end of a ring in `memory`, which both processes have mapped; new memory is all zeros."""

    def __init__(self, memory: memoryview) -> None:
        """`memory` has HEAD_BYTES and then the ring, whose size is a multiple of 8."""
        self._counts = memory[:HEAD_BYTES].cast("Q")
        self._ring = memory[HEAD_BYTES:]
        self._lengths = self._ring.cast("I")
        self._size = len(self._ring)

    @property
    def largest(self) -> int:
        """Bytes of a record that is always taken by an empty ring."""
        return self._size // 2 - ALIGN

    @property
    def waiting_bytes(self) -> int:
        """Written, not yet read."""
        return int(self._counts[0] - self._counts[1])

    def write(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Add one record; False where there is no room for it now."""
        length = sum(len(part) for part in parts)
        needed = (4 + length + ALIGN - 1) // ALIGN * ALIGN
        written = self._counts[0]
        free = self._size - (written - self._counts[1])
        at = written % self._size
        left = self._size - at
        skipped = left if needed > left else 0
        if needed + skipped > free:
            return False
        if skipped:
            self._lengths[at // 4] = SKIP
            at = 0
        self._lengths[at // 4] = length
        at += 4
        for part in parts:
            self._ring[at : at + len(part)] = part
            at += len(part)
        fence()
        self._counts[0] = written + skipped + needed
        return True

    def read(self) -> bytes | None:
        """The oldest record, taken out; None where there is none.

        Raises ValueError where the writer left nonsense.
        """
        read = self._counts[1]
        if read == self._counts[0]:
            return None
        fence()
        at = read % self._size
        length = self._lengths[at // 4]
        if length == SKIP:
            read += self._size - at
            at = 0
            length = self._lengths[0]
        needed = (4 + length + ALIGN - 1) // ALIGN * ALIGN
        if at + needed > self._size or read + needed > self._counts[0]:
            raise ValueError(f"a record of {length} bytes does not fit into the ring")
        record = bytes(self._ring[at + 4 : at + 4 + length])
        fence()
        self._counts[1] = read + needed
        return record

    def release(self) -> None:
        """Let go of the memory."""
        for view in (self._counts, self._lengths, self._ring):
            view.release()
