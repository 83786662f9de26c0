"""Records through shared memory: none lost, none altered, none invented, and a full ring refuses."""

from __future__ import annotations

from collections import deque

import pytest
from ecompile_workers.serving.ring import HEAD_BYTES, Ring
from hypothesis import given
from hypothesis import strategies as st

SIZE = 256


def two_ends(size: int = SIZE) -> tuple[Ring, Ring, bytearray]:
    memory = bytearray(HEAD_BYTES + size)
    return Ring(memoryview(memory)), Ring(memoryview(memory)), memory


@given(steps=st.lists(st.none() | st.binary(max_size=140), max_size=60))
def test_what_was_taken_comes_out_in_order(steps: list[bytes | None]) -> None:
    """Against a queue: writes, and reads where None; an empty ring takes whatever is not above `largest`."""
    writer, reader, _ = two_ends()
    queue: deque[bytes] = deque()
    for step in steps:
        if step is None:
            assert reader.read() == (queue.popleft() if queue else None)
        elif writer.write((step[:3], memoryview(step)[3:])):
            queue.append(step)
        else:
            assert queue or len(step) > writer.largest
    assert [reader.read() for _ in queue] == list(queue)
    assert reader.read() is None and writer.waiting_bytes == 0


def test_reader_refuses_a_length_that_no_writer_wrote() -> None:
    """The other process may have written anything."""
    writer, reader, memory = two_ends()
    assert writer.write((b"abc",))
    memory[HEAD_BYTES : HEAD_BYTES + 4] = (1 << 20).to_bytes(4, "little")
    with pytest.raises(ValueError, match="does not fit"):
        reader.read()
