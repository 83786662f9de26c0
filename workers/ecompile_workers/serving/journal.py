"""Which module is running in which thread, written where the process's death cannot take it: a mapped file.

A process that is killed inside a module (a signal, or the watchdog because it never came back) leaves the module's
number in its slot. The next process in the same pod reads that, and keeps the module out: quarantine. Costs about a
quarter of a microsecond per call; nothing is synced to the disk, because the file outlives the process, not the node.

Layout, little-endian: magic (8 bytes); SLOTS pairs of uint64, calls finished and number of the module in use (0: none);
then the digests, DIGEST_BYTES each, in the order of their numbers, from 1.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson
from ecompile_crds.errors import Code, ResourceError

from ..data import store
from .neural import Rows

logger = logging.getLogger(__name__)

MAGIC: Final = b"ecojrnl1"
SLOTS: Final = 64
"""Threads that run modules at once; more share the last slot."""
DIGEST_BYTES: Final = 80
MODULES: Final = 1024
"""Modules in one process's life; later ones are not written down."""
HEAD_BYTES: Final = len(MAGIC) + SLOTS * 16
SIZE_BYTES: Final = HEAD_BYTES + MODULES * DIGEST_BYTES

Run = Callable[[Rows, Rows], int]


class Journal:
    """The journal of one pod, in a directory that outlives the container (in a pod: the emptyDir at /tmp)."""

    def __init__(self, directory: Path) -> None:
        """Read what the process before left, then start anew.

        Raises ResourceError where the directory cannot be written.
        """
        self._path = directory / "journal"
        self._quarantine_path = directory / "quarantine.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._quarantined = _read_quarantine(self._quarantine_path)
            self._convict(_in_use(self._path))
            with self._path.open("wb") as file:
                file.write(MAGIC.ljust(SIZE_BYTES, b"\0"))
            with self._path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), SIZE_BYTES)
        except OSError as error:
            raise ResourceError(
                Code.STORAGE_UNAVAILABLE, f"{directory}: the crash journal cannot be kept there: {error}."
            ) from error
        self._slots = memoryview(self._map)[len(MAGIC) : HEAD_BYTES].cast("Q")
        self._local = threading.local()
        self._next_slot = itertools.count()
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Why a module is kept out, by bundle digest."""
        return self._quarantined

    def watch(self, digest: str, run: Run) -> Run:
        """`run` of a module, with its calls written down."""
        number, slots, local, claim = self._number(digest), self._slots, self._local, self._claim

        def watched(x: Rows, y: Rows) -> int:
            try:
                slot = local.slot
            except AttributeError:
                slot = local.slot = claim()
            slots[slot + 1] = number
            try:
                return run(x, y)
            finally:
                slots[slot + 1] = 0
                slots[slot] += 1

        return watched

    @contextlib.contextmanager
    def using(self, digest: str) -> Iterator[None]:
        """While a module is loaded: its constructors run then."""
        slot = getattr(self._local, "slot", None)
        if slot is None:
            slot = self._local.slot = self._claim()
        self._slots[slot + 1] = self._number(digest)
        try:
            yield
        finally:
            self._slots[slot + 1] = 0
            self._slots[slot] += 1

    def running(self) -> dict[int, tuple[int, str]]:
        """Calls in progress: by slot, how many calls that thread had finished before, and the module's digest."""
        digests = {number: digest for digest, number in self._numbers.items()}
        found = {}
        for slot in range(0, 2 * SLOTS, 2):
            number, finished = self._slots[slot + 1], self._slots[slot]
            if number:
                found[slot] = (finished, digests[number])
        return found

    def close(self) -> None:
        """The process ends in order: nothing is in use."""
        for slot in range(0, 2 * SLOTS, 2):
            self._slots[slot + 1] = 0

    def _claim(self) -> int:
        return 2 * min(next(self._next_slot), SLOTS - 1)

    def _number(self, digest: str) -> int:
        with self._lock:
            known = self._numbers.get(digest)
            if known is not None:
                return known
            number = len(self._numbers) + 1
            if number > MODULES:
                logger.warning("more than %d modules in one process: a crash in %s would not be seen", MODULES, digest)
                return 0
            start = HEAD_BYTES + (number - 1) * DIGEST_BYTES
            self._map[start : start + DIGEST_BYTES] = digest.encode()[:DIGEST_BYTES].ljust(DIGEST_BYTES, b"\0")
            self._numbers[digest] = number
            return number

    def _convict(self, digests: set[str]) -> None:
        if not digests:
            return
        for digest in sorted(digests):
            sentence = "the process ended while this module was running: it crashed or never came back"
            self._quarantined[digest] = sentence
            logger.error("module %s is quarantined in this pod: %s", digest, sentence)
        store.write(f"file://{self._quarantine_path.resolve()}", orjson.dumps(self._quarantined))


def _in_use(path: Path) -> set[str]:
    """Digests that a journal has in use; empty where there is no journal, or not one of ours."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return set()
    if len(content) != SIZE_BYTES or not content.startswith(MAGIC):
        return set()
    slots = memoryview(content)[len(MAGIC) : HEAD_BYTES].cast("Q")
    found = set()
    for number in slots[1::2].tolist():
        if 0 < number <= MODULES:
            start = HEAD_BYTES + (number - 1) * DIGEST_BYTES
            found.add(content[start : start + DIGEST_BYTES].rstrip(b"\0").decode("ascii", "replace"))
    return found


def _read_quarantine(path: Path) -> dict[str, str]:
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


EXIT_HUNG: Final = 70
"""Exit status where a module did not come back; any but 0 makes the kubelet start the container again."""


def end_process(digest: str, seconds: float) -> None:
    """End at once, without cleaning up: the journal must keep what it says."""
    logger.critical("module %s has been running for %.0f s: ending the process", digest, seconds)
    logging.shutdown()
    os._exit(EXIT_HUNG)
