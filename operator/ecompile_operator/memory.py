"""Gives memory that a start needed back to the system: reading many objects leaves large gaps in the heap."""

from __future__ import annotations

import asyncio
import ctypes

FIRST_SECONDS = 15.0
EVERY_SECONDS = 300.0


def trim() -> bool:
    """Return free pages (glibc only). False where the C library cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return False
    return True


async def give_back_memory() -> None:
    """Now and then, for ever; in a thread, where the event loop does not wait for it."""
    await asyncio.sleep(FIRST_SECONDS)
    while await asyncio.to_thread(trim):
        await asyncio.sleep(EVERY_SECONDS)
