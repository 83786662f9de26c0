"""The node's network namespace, and the one link between it and this machine.

This machine gets three addresses routed to the node (itself, its pods, its Services) and no firewall rule. The node
has no route out but to this machine, which forwards nothing.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .addresses import HOST_ADDRESS, HOST_LINK, LINK_PREFIX, NAME, NODE_ADDRESS, POD_RANGE, SERVICE_RANGE
from .console import DevclusterError, run
from .paths import STATE

NAMESPACE = Path("/run/netns") / NAME
NAMESPACES_MOUNT = NAMESPACE.parent
LINK_INSIDE = "eth0"


def make() -> None:
    """Make the namespace, the link and the routes.

    Raises DevclusterError where the addresses are in use.
    """
    _check_free()
    what = "making the cluster's network"
    inside = ["ip", "-n", NAME]
    for command in (
        ["ip", "netns", "add", NAME],
        ["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", LINK_INSIDE, "netns", NAME],
        ["ip", "link", "set", HOST_LINK, "alias", STATE],
        ["ip", "address", "add", f"{HOST_ADDRESS}/{LINK_PREFIX}", "dev", HOST_LINK],
        ["ip", "link", "set", HOST_LINK, "up"],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "address", "add", f"{NODE_ADDRESS}/{LINK_PREFIX}", "dev", LINK_INSIDE],
        [*inside, "link", "set", LINK_INSIDE, "up"],
        [*inside, "route", "add", "default", "via", HOST_ADDRESS],
        ["ip", "route", "add", SERVICE_RANGE, "via", NODE_ADDRESS],
        ["ip", "route", "add", POD_RANGE, "via", NODE_ADDRESS],
    ):
        run(command, what=what)


def check_owner() -> None:
    """The link tells by its alias whose it is: nothing is done to a cluster of another directory.

    Raises DevclusterError where this cluster's names and addresses are another's.
    """
    alias = Path("/sys/class/net") / HOST_LINK / "ifalias"
    if not alias.exists():
        return
    owner = alias.read_text().strip()
    if owner != str(STATE):
        whose = f"the cluster in {owner}" if owner else "something else"
        raise DevclusterError(
            f"{whose} has the network link {HOST_LINK}, which this cluster ({STATE}) needs. "
            "End that one, or set ECO_CLUSTER_DIR to another empty directory."
        )


def _check_free() -> None:
    routes = json.loads(run(["ip", "-json", "route", "show"], what="reading routes"))
    taken = {str(route.get("dst")): str(route.get("dev")) for route in routes}
    for wanted in (SERVICE_RANGE, POD_RANGE):
        if wanted in taken:
            raise DevclusterError(
                f"{wanted} is routed to {taken[wanted]} already; set ECO_CLUSTER_DIR to another empty directory."
            )


def remove(*, unmount: bool) -> None:
    """Remove what there is of it; the link and the routes go with the namespace.

    With `unmount`, the mount that `ip netns` needs for its names goes too, if the last name went.
    """
    for command in (["ip", "netns", "delete", NAME], ["ip", "link", "delete", HOST_LINK]):
        subprocess.run(command, capture_output=True, check=False)
    if unmount and NAMESPACES_MOUNT.is_mount() and not any(NAMESPACES_MOUNT.iterdir()):
        subprocess.run(["umount", NAMESPACES_MOUNT], capture_output=True, check=False)


def inode() -> int | None:
    """Identity of the namespace, as `/proc/PID/ns/net` shows it, if it exists."""
    try:
        return NAMESPACE.stat().st_ino
    except OSError:
        return None
