"""An API server and its etcd alone: for component tests. No root, several at a time, ready in a few seconds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import build, paths, pki
from .console import DevclusterError
from .node import api_answers

START_SECONDS = 60


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class ApiServer:
    """One API server; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_port, self._peer_port, self._port = free_ports(3)
        self.server = f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> ApiServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ApiServer:
        """Start both processes and wait until they answer.

        Raises DevclusterError where they do not.
        """
        build.build_kubernetes()
        secrets_directory = self.directory / "pki"
        secrets_directory.mkdir(parents=True, exist_ok=True)
        pki.make_all(secrets_directory, addresses=["127.0.0.1"])
        pki.Tokens(secrets_directory, self.server).kubeconfig(self.kubeconfig, "admin", "system:masters")
        self._spawn(
            "etcd",
            [
                "etcd",
                "--data-dir",
                self.directory / "etcd",
                "--unsafe-no-fsync",
                "--log-level",
                "warn",
                "--listen-client-urls",
                f"http://127.0.0.1:{self._etcd_port}",
                "--advertise-client-urls",
                f"http://127.0.0.1:{self._etcd_port}",
                "--listen-peer-urls",
                f"http://127.0.0.1:{self._peer_port}",
            ],
        )
        self._start_server()
        return self

    def _start_server(self) -> None:
        key = self.directory / "pki"
        self._spawn(
            "kube-apiserver",
            [
                "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                f"--secure-port={self._port}",
                "--bind-address=127.0.0.1",
                "--service-cluster-ip-range=10.97.0.0/16",
                "--authorization-mode=RBAC",
                f"--tls-cert-file={key}/server.crt",
                f"--tls-private-key-file={key}/server.key",
                f"--client-ca-file={key}/ca.crt",
                f"--token-auth-file={key}/tokens.csv",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}/sa.key",
                f"--service-account-signing-key-file={key}/sa.key",
                "--profiling=false",
            ],
        )
        deadline = time.monotonic() + START_SECONDS
        while not api_answers(self.server, self.directory / "pki" / "ca.crt"):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise DevclusterError(f"{name} ended; see {self.directory}/{name}.log.")
            if time.monotonic() > deadline:
                raise DevclusterError(f"the API server was not ready after {START_SECONDS} s; see {self.directory}.")
            time.sleep(0.1)

    def _spawn(self, name: str, command: Sequence[object]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(paths.BIN / str(command[0])), *map(str, command[1:])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pause(self) -> None:
        """Kill the API server, keep etcd."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def resume(self) -> None:
        """Start the API server again on the same data."""
        self._start_server()

    def stop(self) -> None:
        """End both and remove the directory."""
        for process in reversed(list(self._processes.values())):
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def describe(self) -> str:
        """JSON for shells."""
        pids = {name: process.pid for name, process in self._processes.items()}
        return json.dumps({"kubeconfig": str(self.kubeconfig), "server": self.server, "pids": pids})


def stop_directory(directory: Path) -> None:
    """Stop a server that another process started with `api-up`."""
    described = directory / "api.json"
    if described.exists():
        for number in json.loads(described.read_text())["pids"].values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
