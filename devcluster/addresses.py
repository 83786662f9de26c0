"""Names and addresses of a cluster. Each state directory has its own, so that several clusters can run at once.

The cluster in the default directory has slot 0; any other directory's slot is drawn from its path.
"""

from __future__ import annotations

import zlib

from .paths import DEFAULT_STATE, STATE

SLOTS = 254


def slot_of(state: str, default: str) -> int:
    """0 for the default directory, else 1 to 254. Two directories can share one; `network.check_owner` notices."""
    return 0 if state == default else 1 + zlib.crc32(state.encode()) % SLOTS


SLOT = slot_of(str(STATE), str(DEFAULT_STATE))

NAME = f"ecompile-{SLOT}" if SLOT else "ecompile"
"""Network namespace and cgroup."""
HOST_LINK = f"eco{SLOT}-host" if SLOT else "ecompile-host"
"""This machine's end of the one link to the node; 15 characters at most."""
NODE = "ecompile-node"
HOST_ADDRESS = f"10.243.{SLOT}.1"
NODE_ADDRESS = f"10.243.{SLOT}.2"
LINK_PREFIX = 30
POD_RANGE = f"10.244.{SLOT}.0/24"
_SERVICES = f"10.97.{SLOT}" if SLOT else "10.96.0"
SERVICE_RANGE = f"{_SERVICES}.0/24" if SLOT else f"{_SERVICES}.0/16"
KUBERNETES_SERVICE = f"{_SERVICES}.1"
DNS_ADDRESS = f"{_SERVICES}.10"
"""Never handed out to a Service: the first sixteen addresses of a range are for those who ask by number (KEP-3070)."""
DOMAIN = "cluster.local"
API_PORT = 6443
SERVER = f"https://{NODE_ADDRESS}:{API_PORT}"
