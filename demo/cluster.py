"""Driving a cluster from outside: kubectl, Helm, waiting with a deadline. Shared by the demo and the tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SYSTEM = "ecompile-system"
CHART = ROOT / "charts" / "ecompile"
EXAMPLE = ROOT / "examples" / "digits"

Manifest = dict[str, Any]


class ClusterError(Exception):
    """What went wrong, in a sentence."""


class Cluster:
    """One cluster, by kubeconfig; None means the user's current context."""

    def __init__(self, *, kubectl: str = "kubectl", helm: str = "helm", kubeconfig: Path | None = None) -> None:
        self._kubectl_path, self._helm_path = kubectl, helm
        self._env = {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig is not None else {})}

    def _run(self, command: list[str], stdin: str | None) -> str:
        done = subprocess.run(command, env=self._env, input=stdin, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; raises ClusterError with its message."""
        return self._run([self._kubectl_path, *arguments], stdin)

    def helm(self, *arguments: str) -> str:
        """Run helm; raises ClusterError with its message."""
        return self._run([self._helm_path, *arguments], None)

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest | None:
        """The object, or None."""
        try:
            found: Manifest = json.loads(self.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
        except ClusterError as error:
            if "NotFound" in str(error) or "not found" in str(error):
                return None
            raise
        return found

    def objects(self, kind: str, namespace: str = "default", *, labels: str = "") -> list[Manifest]:
        selector = ["-l", labels] if labels else []
        found = json.loads(self.kubectl("-n", namespace, "get", kind, *selector, "-o", "json"))
        items: list[Manifest] = found["items"]
        return items

    def apply(self, *manifests: Manifest, namespace: str = "default") -> None:
        """kubectl apply, server-side."""
        text = yaml.safe_dump_all(manifests)
        self.kubectl("-n", namespace, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def annotate_command(self, model: str, command: str, namespace: str = "default") -> None:
        """Give a human command to a model."""
        self.kubectl("-n", namespace, "annotate", "--overwrite", "hm", model, f"ecompile.dev/command={command}")

    def install(self, values: Manifest, *, timeout_seconds: int = 180) -> None:
        """helm upgrade --install, and wait until the operator is ready."""
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"ecompile-values-{os.getpid()}.yaml"
        path.write_text(yaml.safe_dump(values))
        try:
            self.helm(
                *["upgrade", "--install", "ecompile", str(CHART), "-n", SYSTEM, "--create-namespace"],
                *["-f", str(path), "--wait", "--timeout", f"{timeout_seconds}s"],
            )
        finally:
            path.unlink(missing_ok=True)

    def model(self, name: str, namespace: str = "default") -> Manifest:
        """A HybridModel; raises ClusterError where it is gone."""
        found = self.get("hybridmodels", name, namespace)
        if found is None:
            raise ClusterError(f"HybridModel {namespace}/{name} does not exist")
        return found

    def modules(self, model: str, namespace: str = "default") -> list[Manifest]:
        """CompiledModules of a model."""
        return self.objects("compiledmodules", namespace, labels=f"ecompile.dev/model={model}")

    def stages(self, model: str, namespace: str = "default") -> list[str]:
        """Phases of its modules."""
        return [m.get("status", {}).get("phase", "Pending") for m in self.modules(model, namespace)]


def wait_for(what: str, condition: Callable[[], object], *, seconds: float, every: float = 0.25) -> Any:
    """Poll until `condition` answers something true, and return it.

    Raises ClusterError after the deadline.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(every)


def load_example(**spec: object) -> Manifest:
    """The digits example, with top-level fields of its spec replaced."""
    manifest: Manifest = yaml.safe_load((EXAMPLE / "hybridmodel.yaml").read_text())
    manifest["spec"].update(spec)
    return manifest


def training_job(*, site_packages: Path | None) -> Manifest:
    """The example's training Job; with `site_packages`, torch comes from that directory of the node."""
    manifest: Manifest = yaml.safe_load((EXAMPLE / "train-job.yaml").read_text())
    if site_packages is not None:
        pod = manifest["spec"]["template"]["spec"]
        pod["volumes"].append({"name": "torch", "hostPath": {"path": str(site_packages), "type": "Directory"}})
        container = pod["containers"][0]
        container["imagePullPolicy"] = "Never"
        container["volumeMounts"].append({"name": "torch", "mountPath": "/opt/torch", "readOnly": True})
        container["env"].append({"name": "PYTHONPATH", "value": "/opt/torch"})
    return manifest
