"""What is said to the person who waits, and the two ways to run a command: silently, and with progress."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

STARTED = time.monotonic()
PROGRESS_SECONDS = 10
"""A long step says that it goes on this often."""
TAIL_LINES = 15
"""So many of the last lines of a failed command are shown."""


class DevclusterError(Exception):
    """One sentence: what is wrong and what to do."""


def say(message: str) -> None:
    """One line with the seconds since the start, on standard error: standard output is for results."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)


def run(
    command: Sequence[object],
    *,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | BinaryIO | None = None,
) -> str:
    """Run a command to its end and return its output, errors included. Its input is a text, a file, or nothing.

    Raises DevclusterError with the last lines of the output where it fails.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            **({"input": stdin} if isinstance(stdin, str) else {"stdin": stdin or subprocess.DEVNULL}),
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise DevclusterError(f"{what} failed: there is no command {error.filename}.") from error
    _check(done.returncode, words[0], what, done.stdout.splitlines())
    return done.stdout


def run_long(
    command: Sequence[object],
    *,
    what: str,
    counted: str = "lines of output",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command that takes minutes; every few seconds say how far it is, counting its lines of output.

    Raises DevclusterError with the last lines of the output where it fails.
    """
    words = [str(word) for word in command]
    started = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None, "a pipe was asked for"
        reader = threading.Thread(target=lines.extend, args=(process.stdout,))
        reader.start()
        while True:
            reader.join(PROGRESS_SECONDS)
            if not reader.is_alive():
                break
            say(f"{what}: {len(lines)} {counted}, {time.monotonic() - started:.0f} s")
        status = process.wait()
    _check(status, words[0], what, lines)


def _check(status: int, program: str, what: str, lines: Sequence[str]) -> None:
    if status != 0:
        tail = "\n".join(line.rstrip("\n") for line in lines[-TAIL_LINES:])
        raise DevclusterError(f"{what} failed ({program} ended with status {status}):\n{tail}")
