"""Images without a registry: a minimal Debian with Python as base, the pause image, and loading archives."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from . import node
from .console import run, say
from .paths import IMAGES, PAUSE_IMAGE

PAUSE_SOURCE = """#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""
BASE_SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_VERSION = "2"
"""Raise to have the base made anew."""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_archive(target: Path, name: str, layer: Path, *, entrypoint: list[str]) -> None:
    """One-layer OCI archive (OCI image layout 1.0); equal input gives equal bytes."""

    def dump(value: object) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    digest, size = _sha256(layer), layer.stat().st_size
    config = dump(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": entrypoint or None,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "devcluster"}],
        }
    )
    config_digest = hashlib.sha256(config).hexdigest()
    media = "application/vnd.oci.image"
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": {
                "mediaType": f"{media}.config.v1+json",
                "digest": f"sha256:{config_digest}",
                "size": len(config),
            },
            "layers": [{"mediaType": f"{media}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}],
        }
    )
    manifest_digest = hashlib.sha256(manifest).hexdigest()
    index = dump(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": f"{media}.manifest.v1+json",
                    "digest": f"sha256:{manifest_digest}",
                    "size": len(manifest),
                    "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
                }
            ],
        }
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        parts = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": index,
            f"blobs/sha256/{config_digest}": config,
            f"blobs/sha256/{manifest_digest}": manifest,
        }
        for path, content in parts.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        entry = tarfile.TarInfo(f"blobs/sha256/{digest}")
        entry.size = size
        with layer.open("rb") as source:
            archive.addfile(entry, source)
    partial.rename(target)


def pause_archive() -> Path:
    """The pause image: a static program that waits and reaps."""
    target = IMAGES / "pause.tar"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "pause.c").write_text(PAUSE_SOURCE)
        run(["gcc", "-Os", "-static", "-o", directory / "pause", directory / "pause.c"], what="compiling pause")
        layer = directory / "layer.tar"
        with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as archive:
            entry = tarfile.TarInfo("pause")
            content = (directory / "pause").read_bytes()
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        write_archive(target, PAUSE_IMAGE, layer, entrypoint=["/pause"])
    return target


def base_archive() -> Path:
    """A minimal Debian with Python, as an OCI archive that `FROM` can name. Made once, about half a minute."""
    target = IMAGES / "base" / f"debian-python-{BASE_VERSION}.oci.tar"
    if target.exists():
        return target
    say("making the base image: a minimal Debian with Python")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        layer = directory / "root.tar"
        run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={BASE_PACKAGES}",
                "--aptopt=Acquire::Languages none",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                BASE_SUITE,
                layer,
            ],
            what="mmdebstrap",
        )
        write_archive(target, "ecompile.local/debian-python:1", layer, entrypoint=[])
    return target


def load(archive: Path) -> str:
    """Import an OCI archive into the running cluster, and keep it for the next start."""
    kept = IMAGES / archive.name
    IMAGES.mkdir(parents=True, exist_ok=True)
    if archive.resolve() != kept.resolve():
        shutil.copyfile(archive, kept)
    return node.inside(["ctr", "-n", "k8s.io", "images", "import", kept], what=f"importing {archive.name}")
