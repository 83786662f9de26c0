"""`support-bundle`: one archive with what somebody else needs to see why a model is as it is. No Secrets are read, and
values of environment variables that people set are left out."""

from __future__ import annotations

import io
import tarfile
from datetime import datetime
from pathlib import Path

import yaml
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import KubeError

from . import logs
from .cluster import Found, events_of

LOG_LINES = 2000
OURS = "ECO_"


async def collect(client: KubeClient, found: Found, *, explanation: str, status: str) -> dict[str, str]:
    """Texts by path inside the archive."""
    files = {
        "status.txt": status,
        "explain.txt": explanation,
        "hybridmodel.yaml": _yaml([found.model]),
        **{f"{kind.lower()}s.yaml": _yaml(items) for kind, items in found.children.items()},
    }
    problems = list(found.unreadable)
    try:
        files["events.yaml"] = _yaml(await events_of(client, found))
    except KubeError as error:
        problems.append(f"events cannot be read: {error}")
    for pod in found.children.get("Pod", []):
        name = pod["metadata"]["name"]
        try:
            files[f"logs/{name}.log"] = await logs.pod_log(client, found.namespace, name, tail=LOG_LINES)
        except KubeError as error:
            problems.append(f"log of pod {name} cannot be read: {error}")
    if problems:
        files["missing.txt"] = "\n".join(problems) + "\n"
    return files


def _yaml(manifests: list[Manifest]) -> str:
    return yaml.safe_dump_all([redacted(m) for m in manifests], sort_keys=True, allow_unicode=True)


def redacted(manifest: Manifest) -> Manifest:
    """Without managed fields, without the copy of the manifest that `kubectl apply` keeps, and with values of
    variables that are not ours replaced."""
    clean = _redact(manifest)
    meta = clean.get("metadata", {})
    meta.pop("managedFields", None)
    annotations = meta.get("annotations") or {}
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return clean


def _redact(node: Manifest) -> Manifest:
    found: Manifest = {}
    for key, value in node.items():
        if key == "env" and isinstance(value, list):
            found[key] = [_variable(item) for item in value]
        elif isinstance(value, dict):
            found[key] = _redact(value)
        elif isinstance(value, list):
            found[key] = [_redact(item) if isinstance(item, dict) else item for item in value]
        else:
            found[key] = value
    return found


def _variable(item: Manifest) -> Manifest:
    if "value" in item and not str(item.get("name", "")).startswith(OURS):
        return {**item, "value": "(left out)"}
    return item


def write(path: Path, files: dict[str, str], *, now: datetime) -> None:
    """A gzipped tar; equal texts at an equal time give equal entries."""
    root = path.name.removesuffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name in sorted(files):
            data = files[name].encode()
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(now.timestamp()), 0o600
            archive.addfile(entry, io.BytesIO(data))
