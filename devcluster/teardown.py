"""Ending a cluster, whatever state it was left in: everything it made has a name to be found by."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import cgroups, network
from .console import DevclusterError
from .paths import PID_FILE, STATE
from .readiness import wait_until

MADE_NETNS_MOUNT = STATE / "made-netns-mount"
"""There if /run/netns was no mount before this cluster's namespace was made."""


def node_process() -> int | None:
    """The node's outermost process, if it runs: the recorded one, if it is in the cluster's network namespace."""
    try:
        number = int(PID_FILE.read_text())
        inode = Path(f"/proc/{number}/ns/net").stat().st_ino
    except (OSError, ValueError):
        return None
    return number if inode == network.inode() else None


def init_process(outermost: int) -> int | None:
    """Process 1 of the node, as this machine numbers it."""
    try:
        children = Path(f"/proc/{outermost}/task/{outermost}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def tear_down(*, keep_logs: bool = False) -> None:
    """Kill what runs; remove mounts, network, control groups and files.

    Raises DevclusterError where something stays.
    """
    outermost = node_process()
    if outermost is not None:
        _kill(outermost)
    cgroups.kill_members()
    network.remove(unmount=MADE_NETNS_MOUNT.exists())
    left = [str(path) for path in [*cgroups.remove(), *_unmount()]]
    if left:
        raise DevclusterError(f"still there after the cluster was killed: {', '.join(left)}. Run `down` again.")
    _remove_files(keep_logs=keep_logs)


def _kill(outermost: int) -> None:
    """End process 1; the kernel ends the rest of its PID namespace with it, and its parent follows."""
    for number in (init_process(outermost), outermost):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    wait_until(
        lambda: _ended(outermost),
        seconds=10,
        otherwise=lambda: f"process {outermost} of the node does not end.",
    )


def _ended(number: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(number, os.WNOHANG)  # where this very process started it
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _unmount() -> list[Path]:
    """Unmount what is mounted below the state directory on this machine; what stays mounted is returned."""
    for mount in reversed(_mounts()):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
    return _mounts()


def _mounts() -> list[Path]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    decoded = [Path(point.encode().decode("unicode_escape")) for point in points]  # spaces are written as \040
    return [point for point in decoded if point.is_relative_to(STATE)]


def _remove_files(*, keep_logs: bool) -> None:
    if not STATE.exists():
        return
    for entry in STATE.iterdir():
        if keep_logs and entry.name == "log":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if not keep_logs:
        STATE.rmdir()
