"""Pod Security Standards, `restricted`: what a Pod's spec lacks."""

from __future__ import annotations

from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def restricted_faults(spec: dict[str, Any]) -> list[str]:
    """Sentences; empty where the Pod would be admitted (Kubernetes, Pod Security Standards, v1.34)."""
    faults = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser") == 0:
        faults.append("the Pod may run as root")
    if pod.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        faults.append("no seccomp profile")
    for volume in spec.get("volumes", []):
        if not VOLUMES & set(volume):
            faults.append(f"volume {volume['name']} is of a kind that is not allowed")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            faults.append(f"{container['name']} may gain privileges")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            faults.append(f"{container['name']} keeps capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            faults.append(f"{container['name']} uses a port of the host")
    return faults
