"""Driving a cluster from outside: kubectl, Helm, cheap reads, waiting with a deadline. Shared by demo and tests."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import yaml
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

ROOT = Path(__file__).parent.parent
SYSTEM = "ecompile-system"
CHART = ROOT / "charts" / "ecompile"
COMMAND_ANNOTATION = "ecompile.dev/command"
OURS = "/apis/ecompile.dev/v1alpha1"
API_PATHS = {
    "hybridmodels": OURS,
    "compiledmodules": OURS,
    "jobs": "/apis/batch/v1",
    "deployments": "/apis/apps/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}
"""Where the API serves a kind; all others here are in /api/v1."""
READ_SECONDS = 10

Manifest = dict[str, Any]
T = TypeVar("T")


class ClusterError(Exception):
    """What went wrong, in a sentence."""


class Unreachable(ClusterError):
    """The API server did not answer; it may in a moment."""


class Cluster:
    """One cluster, by kubeconfig; None means the user's current context."""

    def __init__(self, *, kubectl: str = "kubectl", helm: str = "helm", kubeconfig: Path | None = None) -> None:
        self._kubectl_path, self._helm_path = kubectl, helm
        self._env = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig is not None else {})}
        self._configuration = Configuration()
        path = str(kubeconfig) if kubeconfig is not None else None
        load_kube_config(config_file=path, client_configuration=self._configuration)
        self._http = urllib3.PoolManager(
            ca_certs=self._configuration.ssl_ca_cert,
            cert_file=self._configuration.cert_file,
            key_file=self._configuration.key_file,
            timeout=READ_SECONDS,
            retries=False,
        )

    def _run(self, command: list[str], stdin: bytes | None) -> bytes:
        done = subprocess.run(command, env=self._env, input=stdin, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command[:6])}: {done.stderr.decode(errors='replace').strip()[-2000:]}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; raises ClusterError with its message."""
        return self.kubectl_bytes(*arguments, stdin=stdin.encode() if stdin is not None else None).decode()

    def kubectl_bytes(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Run kubectl with content that is no text."""
        return self._run([self._kubectl_path, *arguments], stdin)

    def kubectl_command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Words and environment of a kubectl command, for one that runs beside this process."""
        return [self._kubectl_path, *arguments], self._env

    def helm(self, *arguments: str) -> str:
        """Run helm; raises ClusterError with its message."""
        return self._run([self._helm_path, *arguments], None).decode()

    def _read(self, path: str, query: list[tuple[str, str]]) -> Manifest | None:
        """One GET without starting a process: the demo and the tests look several times a second."""
        auth = self._configuration.auth_settings().get("BearerToken")
        headers = {"accept": "application/json", **({"authorization": str(auth["value"])} if auth else {})}
        url = f"{self._configuration.host}{path}"
        try:
            answer = self._http.request("GET", url, fields=query, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"GET {path}: {error}") from error
        if answer.status == 404:
            return None
        if answer.status >= 500 or answer.status == 429:
            raise Unreachable(f"GET {path}: {answer.status}")
        if answer.status != 200:
            raise ClusterError(f"GET {path}: {answer.status} {answer.data[:300].decode(errors='replace')}")
        found: Manifest = json.loads(answer.data)
        return found

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest | None:
        """The object, or None."""
        return self._read(f"{API_PATHS.get(kind, '/api/v1')}/namespaces/{namespace}/{kind}/{name}", [])

    def objects(self, kind: str, namespace: str = "default", *, labels: str = "") -> list[Manifest]:
        """Objects of a namespace, all or those with `labels`."""
        query = [("labelSelector", labels)] if labels else []
        found = self._read(f"{API_PATHS.get(kind, '/api/v1')}/namespaces/{namespace}/{kind}", query)
        items: list[Manifest] = found["items"] if found is not None else []
        return items

    def apply(self, *manifests: Manifest, namespace: str = "default") -> None:
        """kubectl apply, server-side."""
        text = yaml.safe_dump_all(manifests)
        self.kubectl("-n", namespace, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def patch(self, kind: str, name: str, patch: Manifest, namespace: str = "default") -> None:
        """A merge patch."""
        self.kubectl("-n", namespace, "patch", kind, name, "--type", "merge", "-p", json.dumps(patch))

    def command(self, model: str, command: str, namespace: str = "default") -> None:
        """Give a human command to a model: verb and token."""
        self.kubectl("-n", namespace, "annotate", "--overwrite", "hm", model, f"{COMMAND_ANNOTATION}={command}")

    def install(self, values: Manifest, *, timeout_seconds: int = 180) -> str:
        """helm upgrade --install, and wait until the operator is ready. Returns what helm prints."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(yaml.safe_dump(values))
            file.flush()
            return self.helm(
                *("upgrade", "--install", "ecompile", str(CHART), "-n", SYSTEM, "--create-namespace"),
                *("-f", file.name, "--wait", "--timeout", f"{timeout_seconds}s"),
            )

    def uninstall(self) -> None:
        """helm uninstall, and wait until the operator is gone."""
        self.helm("uninstall", "ecompile", "-n", SYSTEM, "--wait", "--timeout", "90s")

    def model(self, name: str, namespace: str = "default") -> Manifest:
        """A HybridModel; raises ClusterError where it is gone."""
        found = self.get("hybridmodels", name, namespace)
        if found is None:
            raise ClusterError(f"HybridModel {namespace}/{name} does not exist")
        return found

    def status(self, name: str, namespace: str = "default") -> Manifest:
        """Status of a HybridModel; empty while it has none."""
        found: Manifest = self.model(name, namespace).get("status") or {}
        return found

    def modules(self, model: str, namespace: str = "default") -> list[Manifest]:
        """CompiledModules of a model, oldest first."""
        found = self.objects("compiledmodules", namespace, labels=f"ecompile.dev/model={model}")
        return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    def stages(self, model: str, namespace: str = "default") -> list[str]:
        """Stages of its modules."""
        return [m.get("status", {}).get("phase", "Pending") for m in self.modules(model, namespace)]

    def jobs(self, model: str, kind: str, namespace: str = "default") -> list[Manifest]:
        """Its Jobs of one kind: profile, distill or validate."""
        return self.objects("jobs", namespace, labels=f"ecompile.dev/model={model},ecompile.dev/job={kind}")

    def pods(self, model: str, namespace: str = "default") -> list[Manifest]:
        """Its serving pods that are ready and not being deleted."""
        labels = f"ecompile.dev/model={model},app.kubernetes.io/component=serving"
        return [pod for pod in self.objects("pods", namespace, labels=labels) if is_ready(pod)]


def is_ready(pod: Manifest) -> bool:
    """Whether a Pod is ready, and not on its way out."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def wait_for(
    what: str,
    condition: Callable[[], T],
    *,
    seconds: float,
    every: float = 0.25,
    otherwise: Callable[[], str] = lambda: "",
) -> T:
    """Poll until `condition` answers something true, and return it. An API server that is away is waited for.

    Raises ClusterError after the deadline, with what `otherwise` says of the state then.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = ""
        try:
            found = condition()
            if found:
                return found
        except Unreachable as error:
            last = str(error)
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not happen within {seconds:.0f} s. {last}{otherwise()}".rstrip())
        time.sleep(every)
