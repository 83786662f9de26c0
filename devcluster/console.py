"""What is said to the person who waits, and the one way to run a command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STARTED = time.monotonic()


class DevclusterError(Exception):
    """One sentence: what is wrong and what to do."""


def say(message: str) -> None:
    """One line with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)


def run(
    command: Sequence[object],
    *,
    what: str,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Run a command to its end and return its output.

    Raises DevclusterError with the last lines of the output where it fails.
    """
    words = [str(word) for word in command]
    merged = {**os.environ, **(env or {})}
    done = subprocess.run(
        words,
        cwd=cwd,
        env=merged,
        input=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if log is not None:
        with log.open("a", encoding="utf-8") as out:
            out.write(done.stdout)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise DevclusterError(f"{what} failed ({words[0]} ended with status {done.returncode}):\n{tail}")
    return done.stdout
