"""Where things are kept: binaries and images in the cache, a running cluster in its state directory."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_CACHE = Path.home() / ".cache" / "ecompile" / "devcluster"
CACHE = Path(os.environ.get("ECO_CACHE_DIR") or DEFAULT_CACHE).absolute()
DEFAULT_STATE = DEFAULT_CACHE / "cluster"
STATE = Path(os.environ.get("ECO_CLUSTER_DIR") or CACHE / "cluster").absolute()
BIN = CACHE / "bin"
IMAGES = CACHE / "images"
"""OCI archives directly in here are imported whenever a cluster starts."""
SOURCES = Path(__file__).parent
"""One directory per Go module."""

KUBECONFIG = STATE / "kubeconfig"
CONFIG = STATE / "config"
KEYS = STATE / "pki"
LOGS = STATE / "log"
VOLUMES = STATE / "volumes"
PAUSED = STATE / "paused"
"""A file named like a component in here keeps that component from running."""
PID_FILE = STATE / "pid"
