"""Running commands in the node's namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from . import teardown
from .console import DevclusterError, run
from .packages import SYSTEM_PATH
from .paths import BIN, KUBECONFIG


def require_running() -> int:
    """Process 1 of the node, as this machine numbers it.

    Raises DevclusterError where no cluster runs.
    """
    outermost = teardown.node_process()
    init = teardown.init_process(outermost) if outermost is not None else None
    if init is None:
        raise DevclusterError("no cluster is running; start one with `python3 -m devcluster up`.")
    return init


def capture(command: Sequence[str | Path], *, what: str, stdin: BinaryIO | None = None) -> str:
    """Run a command in the node and return its output.

    Raises DevclusterError where it fails.
    """
    return run([*_enter(), *command], what=what, env=_environment(), stdin=stdin)


def execute(command: Sequence[str]) -> int:
    """Run a command in the node with this terminal, and return its status."""
    return subprocess.run([*_enter(), *command], env={**os.environ, **_environment()}, check=False).returncode


def _enter() -> list[str]:
    return ["nsenter", f"--target={require_running()}", "--mount", "--net", "--pid", "--uts", "--ipc", "--"]


def _environment() -> dict[str, str]:
    return {"PATH": f"{BIN}:{SYSTEM_PATH}", "KUBECONFIG": str(KUBECONFIG)}
