"""How this machine reaches serving pods: by the Service's address, or by forwarded ports where it has no route."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence

from .cluster import Cluster, ClusterError, Manifest, wait_for

Target = tuple[str, int]


def service_address(cluster: Cluster, name: str, namespace: str = "default") -> Target:
    """Address of a Service; the development cluster's are reachable from its machine."""

    def found() -> Manifest | None:
        return cluster.get("services", name, namespace)

    service = wait_for(f"Service {name}", found, seconds=30)
    assert service is not None, "wait_for returns what is true"
    return str(service["spec"]["clusterIP"]), int(service["spec"]["ports"][0]["port"])


def pod_address(pod: Manifest) -> Target:
    """Address of one serving pod."""
    ports = pod["spec"]["containers"][0]["ports"]
    return str(pod["status"]["podIP"]), int(ports[0]["containerPort"])


@contextlib.contextmanager
def forwarded(cluster: Cluster, pods: Sequence[Manifest]) -> Iterator[list[Target]]:
    """A local port for each pod, as long as the context lasts. Rollouts do not replace pods, so they stay good."""
    processes: list[subprocess.Popen[str]] = []
    try:
        targets = []
        for pod in pods:
            where = ["-n", pod["metadata"]["namespace"], "port-forward", f"pod/{pod['metadata']['name']}"]
            command, env = cluster.kubectl_command(*where, f":{pod_address(pod)[1]}")
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            processes.append(process)
            assert process.stdout is not None, "a pipe was asked for"
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise ClusterError(f"no port could be forwarded to {pod['metadata']['name']}: {line.strip()}")
            targets.append(("127.0.0.1", int(found.group(1))))
        yield targets
    finally:
        for process in processes:
            process.terminate()
            process.wait()
