"""OCI image archives, written without a registry or a daemon. Equal input gives equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

MEDIA = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(target: Path, name: str, layer: Path, *, entrypoint: list[str]) -> None:
    """Write an OCI archive (image layout 1.0.0) with one uncompressed layer, the tar file `layer`."""
    machine = platform.machine()
    digest, size = _sha256(layer), layer.stat().st_size
    config = _json(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": entrypoint or None,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            # buildah refuses a base whose history is shorter than its list of layers.
            "history": [{"created_by": "devcluster"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": {"mediaType": f"{MEDIA}.config.v1+json", **_described(config)},
            "layers": [{"mediaType": f"{MEDIA}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}],
        }
    )
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    entry = {"mediaType": f"{MEDIA}.manifest.v1+json", **_described(manifest), "annotations": names}
    parts = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
        _blob(config): config,
        _blob(manifest): manifest,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in parts.items():
            add_file(archive, path, content)
        header = tarfile.TarInfo(f"blobs/sha256/{digest}")
        header.size = size
        with layer.open("rb") as source:
            archive.addfile(header, source)
    partial.rename(target)


def add_file(archive: tarfile.TarFile, path: str, content: bytes, *, mode: int = 0o644) -> None:
    """Add a file that belongs to root and has no date."""
    header = tarfile.TarInfo(path)
    header.size, header.mode = len(content), mode
    archive.addfile(header, io.BytesIO(content))


def _described(content: bytes) -> dict[str, object]:
    return {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
