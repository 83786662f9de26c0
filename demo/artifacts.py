"""The artifact volume of a namespace, read and written through a Pod that mounts it: the same on every cluster."""

from __future__ import annotations

import shlex

from .cluster import Cluster, Manifest, is_ready, wait_for

MOUNT = "/artifacts"


class Artifacts:
    """A Pod with the volume and a shell; it stays until the namespace or the cluster goes."""

    def __init__(
        self, cluster: Cluster, namespace: str = "default", *, image: str, pull_policy: str = "IfNotPresent"
    ) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._name = "artifacts-shell"
        cluster.apply(self._manifest(image, pull_policy), namespace=namespace)

        def ready() -> bool:
            pod = cluster.get("pods", self._name, namespace)
            return pod is not None and is_ready(pod)

        wait_for(f"the Pod {self._name}", ready, seconds=120)

    def _manifest(self, image: str, pull_policy: str) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self._name},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "shell",
                        "image": image,
                        "imagePullPolicy": pull_policy,
                        "command": ["sleep", "infinity"],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "artifacts", "mountPath": MOUNT}],
                    }
                ],
                "volumes": [{"name": "artifacts", "persistentVolumeClaim": {"claimName": "ecompile-artifacts"}}],
            },
        }

    def shell(self, script: str, *, stdin: bytes | None = None) -> bytes:
        """Run a shell script in the Pod; raises ClusterError where it fails."""
        interactive = ["-i"] if stdin is not None else []
        arguments = ["-n", self._namespace, "exec", *interactive, self._name, "--", "sh", "-c", script]
        return self._cluster.kubectl_bytes(*arguments, stdin=stdin)

    def read(self, uri: str) -> bytes:
        """Content of `file:///artifacts/...`."""
        return self.shell(f"cat {shlex.quote(path_of(uri))}")

    def write(self, uri: str, content: bytes) -> None:
        """Make or replace a file, its directories too."""
        path = shlex.quote(path_of(uri))
        self.shell(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=content)


def path_of(uri: str) -> str:
    """Path in the Pod of an artifact URI."""
    assert uri.startswith(f"file://{MOUNT}/"), f"{uri} is not on the artifact volume"
    return uri.removeprefix("file://")
