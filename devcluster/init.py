"""Process 1 of the node, in mount, PID, network, UTS and IPC namespaces of its own: `python3 -m devcluster.init`.

It prepares the namespaces, starts every component, starts again what ends, and reaps what is left behind. When it
ends, however it ends, the kernel kills everything that it started. Called by `node` only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import cgroups, components, volumes
from .addresses import DNS_ADDRESS, NODE, SERVER
from .components import Component
from .console import run, say
from .paths import KEYS, LOGS, PAUSED, STATE
from .readiness import api_answers

HIDDEN = ("/run", "/var/log", "/var/lib/cni")
"""Directories of this machine that the node sees empty: the components write there under fixed names."""
PRETENDED = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
"""Global kernel settings that the kubelet insists on writing."""
TICK_SECONDS = 0.1
RESTART_SECONDS = 1.0
"""A component that ends is started again no sooner than this after its last start."""


def main() -> None:
    """Never returns while the node is up."""
    signal.signal(signal.SIGTERM, _end)
    cgroups.join()
    _prepare()
    Supervisor(components.cluster()).run()


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _prepare() -> None:
    """Make mounts, names and limits as the components need them. None of it reaches the host."""
    what = "preparing the node"
    run(["mount", "--make-rprivate", "/"], what=what)
    run(["mount", "--make-rshared", "/"], what=what)  # the kubelet and runc want propagation within the node
    socket.sethostname(NODE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for directory in HIDDEN:
        Path(directory).mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", directory], what=what)
    for directory in ("/run/netns", "/run/lock", "/run/sysctl"):
        Path(directory).mkdir()
    run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", STATE / "etcd"], what=what)
    for name, value in PRETENDED.items():
        pretended = Path("/run/sysctl") / Path(name).name
        pretended.write_text(value + "\n")
        run(["mount", "--bind", pretended, Path("/proc/sys") / name], what=what)
    volumes.mount_tiny()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    # On the loopback: not every kernel has dummy links, and packets from pods are for this node either way.
    run(["ip", "address", "add", f"{DNS_ADDRESS}/32", "dev", "lo"], what=what)


class Supervisor:
    """Keeps components running, but for those that a file in the `paused` directory names."""

    def __init__(self, wanted: list[Component]) -> None:
        self._wanted = wanted
        self._running: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._api_answered = False

    def run(self) -> NoReturn:
        """Look at everything ten times a second."""
        while True:
            self._reap()
            for component in self._wanted:
                self._tend(component)
            time.sleep(TICK_SECONDS)

    def _tend(self, component: Component) -> None:
        paused = (PAUSED / component.name).exists()
        pid = self._running.get(component.name)
        if pid is not None and paused:
            say(f"{component.name}: killed, as asked for")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pid is not None or paused:
            return
        if time.monotonic() - self._started.get(component.name, -RESTART_SECONDS) < RESTART_SECONDS:
            return
        if component.needs_api and not self._api():
            return
        self._start(component)

    def _api(self) -> bool:
        """Whether the API server has answered once; later it may come and go, as in any cluster."""
        self._api_answered = self._api_answered or api_answers(SERVER, KEYS / "ca.crt")
        return self._api_answered

    def _start(self, component: Component) -> None:
        say(f"{component.name}: {'started again' if component.name in self._started else 'started'}")
        self._started[component.name] = time.monotonic()
        with (LOGS / f"{component.name}.log").open("ab") as log:
            process = subprocess.Popen(
                component.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._running[component.name] = process.pid
        process.returncode = 0  # reaped below, with the orphans: nobody asks this object again

    def _reap(self) -> None:
        """Collect ended components, and the orphans that every process 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, running in list(self._running.items()):
                if running == pid:
                    say(f"{name}: ended with status {os.waitstatus_to_exitcode(status)}")
                    del self._running[name]


if __name__ == "__main__":
    main()
