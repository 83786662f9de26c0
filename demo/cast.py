"""What a run prints, with its times: on the terminal, and as an asciinema v2 recording."""

from __future__ import annotations

import json
import time
from pathlib import Path

COLUMNS, ROWS = 118, 40


class Cast:
    """Prints lines as they happen, and keeps them."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._began = int(time.time())
        self._events: list[tuple[float, str]] = []

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def say(self, text: str = "") -> None:
        """Print lines, each with the seconds since the start."""
        for line in text.rstrip("\n").split("\n"):
            at = self.seconds()
            shown = f"[{at:6.1f} s] {line}" if line else ""
            self._events.append((at, shown))
            print(shown, flush=True)

    def write(self, path: Path) -> None:
        """An asciinema v2 file (https://docs.asciinema.org/manual/asciicast/v2/)."""
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "timestamp": self._began, "title": "make demo"}
        lines = [json.dumps(header)]
        lines += [json.dumps([round(at, 3), "o", f"{text}\r\n"], ensure_ascii=False) for at, text in self._events]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def read(path: Path) -> list[tuple[float, str]]:
    """Lines with their times, of a recording made by `Cast.write`."""
    _, *events = path.read_text().splitlines()
    found = (json.loads(line) for line in events)
    return [(float(at), str(text).rstrip("\r\n")) for at, kind, text in found if kind == "o"]
