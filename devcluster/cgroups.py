"""Control groups of the node: one group in every hierarchy, so that nothing can escape being counted and killed.

`<NAME>/system` holds the components, `<NAME>/kubepods` (made by the kubelet) the pods. Version 1 is what this is
tested on; with version 2 alone the controllers are handed down and the rest is the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .addresses import NAME
from .console import DevclusterError

ROOT = Path("/sys/fs/cgroup")
SYSTEM = "system"
VERSION_2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
REMOVE_SECONDS = 10
"""The kernel frees a group a moment after its last process ended."""


def hierarchies() -> list[Path]:
    """Mounted hierarchies: with version 1 one per controller, with version 2 the root."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    if not ROOT.is_dir():
        return []
    return [path for path in sorted(ROOT.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]


def make() -> None:
    """Make the node's groups.

    Raises DevclusterError where this machine has no usable control groups.
    """
    found = hierarchies()
    if not found:
        raise DevclusterError(f"no control groups are mounted at {ROOT}; the kubelet cannot run without them.")
    try:
        for hierarchy in found:
            _make_in(hierarchy)
    except OSError as error:
        raise DevclusterError(
            f"cannot make control groups ({error.strerror}: {error.filename}); "
            "in a container, it has to be privileged and have /sys/fs/cgroup writable."
        ) from error


def _make_in(hierarchy: Path) -> None:
    group = hierarchy / NAME
    group.mkdir(exist_ok=True)
    if hierarchy == ROOT:
        available = (hierarchy / "cgroup.controllers").read_text().split()
        enabled = " ".join(f"+{name}" for name in VERSION_2_CONTROLLERS if name in available)
        (hierarchy / "cgroup.subtree_control").write_text(enabled)
        (group / "cgroup.subtree_control").write_text(enabled)
    (group / SYSTEM).mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        source = hierarchy / name
        if source.exists() and hierarchy != ROOT:  # version 1 does not inherit them
            for child in (group, group / SYSTEM):
                (child / name).write_text(source.read_text())


def join() -> None:
    """Put the calling process into the node's group for components; called inside the node."""
    for hierarchy in hierarchies():
        (hierarchy / NAME / SYSTEM / "cgroup.procs").write_text("0")


def members() -> set[int]:
    """Processes of the node as the caller's PID namespace numbers them."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for listing in (hierarchy / NAME).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in listing.read_text().split())
    return found - {0, os.getpid()}


def kill_members() -> None:
    """Kill every process of the node that is left."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while (left := members()) and time.monotonic() < deadline:
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def remove() -> list[Path]:
    """Remove the node's groups; those that could not be are returned."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while left := [hierarchy / NAME for hierarchy in hierarchies() if (hierarchy / NAME).exists()]:
        for group in left:
            inner = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
            for directory in [*inner, group]:
                with contextlib.suppress(OSError):
                    directory.rmdir()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left
