"""An API server and its etcd alone: for component tests. No root, several at a time, ready in a few seconds.

`with start(directory) as server:` in Python, `api-up` and `api-down` in a shell. There are no controllers: objects
stay as they are written, and pods need no service account.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from . import build, components, packages, pki
from .components import Component
from .console import DevclusterError
from .kubeconfig import Users
from .readiness import api_answers, wait_until

START_SECONDS = 60
ATTEMPTS = 3
"""A port that was free can be taken before the server has it; then others are tried."""
SERVICES = "10.96.0.0/16"
DESCRIPTION = "api.json"
"""What runs in a directory, for `stop_directory`; it also tells that the directory is ours."""
MADE = (DESCRIPTION, "etcd", "pki", "kubeconfig", "etcd.log", "kube-apiserver.log")


class ApiServer:
    """One API server with its data in one directory; a context manager. `start` makes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.kubeconfig = self.directory / "kubeconfig"
        self.server = ""
        self._keys = self.directory / "pki"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._command: Component | None = None

    def __enter__(self) -> ApiServer:
        return self if self._processes else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ApiServer:
        """Start both processes and wait until they answer.

        Raises DevclusterError where they do not, or where the directory has something else in it.
        """
        packages.require(["openssl"])
        build.build_kubernetes()
        stop_directory(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / DESCRIPTION).write_text('{"pids": {}}')
        pki.make_all(self._keys, addresses=["127.0.0.1"])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start_both()
                return self
            except DevclusterError:
                self._kill_all()
                if attempt == ATTEMPTS:
                    raise
            except BaseException:
                self._kill_all()
                raise
        raise AssertionError("the last attempt returns or raises")

    def pause(self) -> None:
        """Kill the API server, keep etcd and the data: a fault for tests."""
        self._kill("kube-apiserver")
        self._describe()

    def resume(self) -> None:
        """Start the API server again, on the same port and data, and wait until it answers."""
        assert self._command, "it was started before"
        self._spawn(self._command)
        self._wait()
        self._describe()

    def freeze(self) -> None:
        """Stop the API server as if its machine hung: connections stay open and nothing answers."""
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen API server go on."""
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both processes and remove what they wrote."""
        self._kill_all()
        stop_directory(self.directory)

    def describe(self) -> str:
        """JSON for shells: where it answers, and who."""
        pids = {name: process.pid for name, process in self._processes.items()}
        pid = pids.get("kube-apiserver")
        return json.dumps({"kubeconfig": str(self.kubeconfig), "server": self.server, "pid": pid, "pids": pids})

    def _start_both(self) -> None:
        etcd_port, peer_port, port = free_ports(3)
        self.server = f"https://127.0.0.1:{port}"
        Users(self._keys, self.server).add(self.kubeconfig, "admin", "system:masters")
        self._spawn(components.etcd(self.directory / "etcd", port=etcd_port, peer_port=peer_port))
        self._command = components.api_server(
            self._keys,
            etcd_port=etcd_port,
            port=port,
            bind="127.0.0.1",
            services=SERVICES,
            more=["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"],
        )
        self._spawn(self._command)
        self._describe()
        self._wait()

    def _spawn(self, component: Component) -> None:
        with (self.directory / f"{component.name}.log").open("ab") as log:
            self._processes[component.name] = subprocess.Popen(
                component.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait(self) -> None:
        def answers() -> bool:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    log = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-5:]
                    raise DevclusterError("\n".join([f"{name} ended while starting:", *log]))
            return api_answers(self.server, self._keys / "ca.crt")

        wait_until(
            answers,
            seconds=START_SECONDS,
            otherwise=lambda: f"the API server was not ready after {START_SECONDS} s; see {self.directory}.",
        )

    def _describe(self) -> None:
        (self.directory / DESCRIPTION).write_text(self.describe())

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _kill_all(self) -> None:
        for name in reversed(list(self._processes)):
            self._kill(name)


def start(directory: Path) -> ApiServer:
    """Start an API server with its data in `directory`, which is made, or empty, or left by an earlier one.

    Raises DevclusterError where that fails.
    """
    return ApiServer(directory).start()


def stop_directory(directory: Path) -> None:
    """Stop the server that any process started in `directory`, and remove its files. Where none was, do nothing.

    Raises DevclusterError where the directory has something else in it.
    """
    described = directory.absolute() / DESCRIPTION
    if not described.exists():
        if directory.exists() and any(directory.iterdir()):
            raise DevclusterError(f"{directory} has files in it that are not an API server's; choose another.")
        return
    for number in json.loads(described.read_text())["pids"].values():
        _end(number, directory.absolute())
    for name in MADE:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a test may keep files of its own beside it
        directory.rmdir()


def _end(number: int, directory: Path) -> None:
    """Kill a process of the server in that directory, and wait for its end."""
    if _is_ours(number, directory):
        os.kill(number, signal.SIGKILL)
    wait_until(
        lambda: not _is_ours(number, directory),
        seconds=10,
        otherwise=lambda: f"process {number} of the API server in {directory} does not end.",
    )


def _is_ours(number: int, directory: Path) -> bool:
    """Whether that process still is the one that was started: its command names the directory."""
    try:
        return os.fsencode(f"{directory}/") in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
