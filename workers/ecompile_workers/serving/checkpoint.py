"""What the detectors have seen, kept across a restart of the container: a tripped segment stays tripped, and evidence
of many hours is not forgotten. Valid for the same generation and the same module only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from ecompile_crds.errors import EcompileError

from ..data import store
from .breaker import SegmentWatch
from .bridge import RouteState

logger = logging.getLogger(__name__)

SAVE_SECONDS: Final = 5.0
"""Evidence lost at most in a crash. A save takes about a millisecond, in a thread."""


class Checkpoint:
    """The file, and what was in it when the process started."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "detectors.json"
        self._saved = _read(self._path)

    def restore(self, generation: int, segment: int, digest: str, watch: SegmentWatch) -> None:
        """Give a new watch what an earlier process knew of the same module under the same generation, if anything."""
        saved = self._saved.get("segments", {}).get(str(segment), {})
        if self._saved.get("generation") != generation or saved.get("digest") != digest:
            return
        try:
            watch.restore(saved["state"])
        except (KeyError, TypeError, ValueError) as error:
            logger.warning(
                "%s: segment %d cannot be restored (%r); its detectors start anew", self._path, segment, error
            )

    def save(self, snapshot: bytes) -> None:
        """Write what `snapshot` made; may be called in a thread. What cannot be written is logged, not raised."""
        try:
            store.write(f"file://{self._path.resolve()}", snapshot)
        except EcompileError as error:
            logger.warning("the detectors' state is not saved: %s", error.message)

    async def keep_saving(self, state: Callable[[], RouteState], *, pause_seconds: float = SAVE_SECONDS) -> None:
        """Save until cancelled, whenever something has changed."""
        last = b""
        while True:
            await asyncio.sleep(pause_seconds)
            taken = snapshot(state())
            if taken != last:
                await asyncio.to_thread(self.save, taken)
                last = taken


def snapshot(state: RouteState) -> bytes:
    """JSON of all watches that have a module, in the event loop's thread."""
    segments = {
        str(segment.index): {"digest": segment.module.digest, "state": segment.watch.state()}
        for segment in state.segments
        if segment.module is not None
    }
    return orjson.dumps({"generation": state.generation, "segments": segments})


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        logger.warning("%s cannot be read (%s); detectors start anew", path, error)
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("segments"), dict) else {}
