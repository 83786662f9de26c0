"""Logs across all Jobs of a model, and of its serving pods where asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ecompile_crds.names import COMPONENT_JOB, COMPONENT_SERVING, LABEL_COMPONENT, LABEL_JOB
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import KubeError

from .cluster import Found


def pods(found: Found, *, kind: str | None, serving: bool) -> list[Manifest]:
    """Pods whose logs are wanted, in the order in which they were made."""
    wanted = COMPONENT_SERVING if serving else COMPONENT_JOB

    def chosen(pod: Manifest) -> bool:
        labels = pod["metadata"].get("labels", {})
        return labels.get(LABEL_COMPONENT) == wanted and (kind is None or labels.get(LABEL_JOB) == kind)

    return sorted(
        filter(chosen, found.children.get("Pod", [])),
        key=lambda p: (str(p["metadata"].get("creationTimestamp", "")), str(p["metadata"]["name"])),
    )


def prefix(pod: Manifest) -> str:
    """Such as `[distill net-distill-1a2b-0]`."""
    labels = pod["metadata"].get("labels", {})
    return f"[{labels.get(LABEL_JOB) or labels.get(LABEL_COMPONENT)} {pod['metadata']['name']}]"


async def read(client: KubeClient, found: Found, chosen: list[Manifest], *, tail: int) -> AsyncIterator[str]:
    """Lines with the pod before each; a pod whose log is gone is one line that says so."""
    for pod in chosen:
        name = pod["metadata"]["name"]
        try:
            text = await pod_log(client, found.namespace, name, tail=tail)
        except KubeError as error:
            yield f"{prefix(pod)} no log: {error}"
            continue
        for line in text.splitlines():
            yield f"{prefix(pod)} {line}"


async def pod_log(client: KubeClient, namespace: str, pod: str, *, tail: int) -> str:
    """The newest lines of a pod's only container."""
    query = {"tailLines": str(tail)} if tail > 0 else {}
    return await client.text(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query)
