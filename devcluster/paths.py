"""Where things are kept: binaries and images in the cache, a running cluster in its state directory."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("ECO_CACHE_DIR", Path.home() / ".cache" / "ecompile" / "devcluster"))
STATE = Path(os.environ.get("ECO_CLUSTER_DIR", CACHE / "cluster"))
BIN = CACHE / "bin"
IMAGES = CACHE / "images"
"""OCI archives here are imported whenever the cluster starts."""
SOURCES = Path(__file__).parent / "go"
KUBECONFIG = STATE / "kubeconfig"
LOGS = STATE / "log"
VOLUMES = STATE / "volumes"

NAME = "ecompile"
"""Network namespace, cgroup and interface prefix."""
NODE = "ecompile-node"
HOST_ADDRESS = "10.253.0.1"
NODE_ADDRESS = "10.253.0.2"
SERVICE_RANGE = "10.112.0.0/16"
POD_RANGE = "10.254.0.0/24"
KUBERNETES_SERVICE = "10.112.0.1"
DNS_ADDRESS = "10.112.0.10"
"""The static range of Service addresses starts below; dynamic ones are handed out from the upper part (KEP-3070)."""
PAUSE_IMAGE = "ecompile.local/pause:1"
