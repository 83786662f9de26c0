"""Debian packages: what is missing is installed, where that is allowed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .console import DevclusterError, run, run_long, say

COMMANDS = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "openssl": "openssl",
    "update-ca-certificates": "ca-certificates",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Command and the Debian package that brings it."""
CNI_PLUGINS = Path("/usr/lib/cni")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Some of the commands are in sbin directories, which a user's PATH may lack."""


def install_packages() -> None:
    """Install the Debian packages that are missing.

    Raises DevclusterError where they cannot be installed.
    """
    missing = _missing(COMMANDS)
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    install(missing)


def require(commands: Iterable[str]) -> None:
    """Install the packages of a few commands only: an API server alone needs just openssl."""
    install(_missing(commands))


def install(packages: list[str]) -> None:
    """`apt-get install`, or a sentence where that cannot work."""
    if not packages:
        return
    listed = ", ".join(packages)
    if shutil.which("apt-get") is None:
        raise DevclusterError(f"missing: {listed}. This is no Debian system; install them with its package manager.")
    if os.geteuid() != 0:
        raise DevclusterError(f"missing Debian packages: {listed}. Install them, or run this as root once.")
    say(f"installing Debian packages: {listed}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    run(["apt-get", *wait, "update", "-q"], what="apt-get update", env=env)
    run_long(
        ["apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", *packages],
        what=f"installing {listed}",
        env=env,
    )


def _missing(commands: Iterable[str]) -> list[str]:
    return [COMMANDS[command] for command in commands if shutil.which(command, path=SYSTEM_PATH) is None]
