"""One at a time: building into the cache, and changing one cluster."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from .console import say
from .paths import CACHE


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the lock called `name`; say so where another process has it. A killed holder gives it back."""
    directory = CACHE / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another devcluster command is busy ({name}); waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
