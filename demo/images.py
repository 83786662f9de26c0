"""Build the three images from the Dockerfile with buildah, keep them by content, load them into the cluster."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from devcluster import build, images
from devcluster.console import DevclusterError, run, say
from devcluster.paths import CACHE, IMAGES

ROOT = Path(__file__).parent.parent
VERSION = "0.1.0"
TARGETS = ("operator", "serving", "worker")
SOURCES = (
    "Dockerfile",
    "pyproject.toml",
    "hatch_build.py",
    "requirements",
    "crds/ecompile_crds",
    "operator",
    "workers",
)
SUFFIXES = {".py", ".pyi", ".c", ".txt", ".toml", ".proto", ""}
BUILDAH = ["buildah", "--storage-driver", "overlay", "--root", str(CACHE / "containers")]
"""Storage of its own, so that nothing of the machine's is touched and layers are found again."""


def name_of(target: str) -> str:
    """Image name as the chart has it by default."""
    return f"ecompile/{target}:{VERSION}"


def content_key() -> str:
    """Digest of everything that goes into the images."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" in file.parts or file.suffix not in SUFFIXES:
                continue
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def build_images() -> dict[str, Path]:
    """OCI archives by target; only what is not there yet is built. Minutes the first time, seconds after a change."""
    build.install_packages()
    base = images.base_archive()
    key = content_key()
    archives = {target: IMAGES / f"ecompile-{target}.tar" for target in TARGETS}
    marker = IMAGES / "ecompile.key"
    if marker.exists() and marker.read_text() == key and all(path.exists() for path in archives.values()):
        return archives
    marker.unlink(missing_ok=True)
    for target, archive in archives.items():
        say(f"building image {name_of(target)}")
        run(
            [
                *(*BUILDAH, "bud", "--isolation", "chroot", "--network", "host", "--layers", "--target", target),
                *("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--build-arg", f"BASE_IMAGE=oci-archive:{base}"),
                *("-t", name_of(target), ROOT),
            ],
            what=f"building the {target} image",
        )
        partial = archive.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        reference = f"docker.io/{name_of(target)}"
        run(
            [*BUILDAH, "push", "-q", "-D", name_of(target), f"oci-archive:{partial}:{reference}"],
            what="writing the image",
        )
        partial.rename(archive)
        say(f"image {name_of(target)}: {archive.stat().st_size / 1e6:.0f} MB")
    marker.write_text(key)
    return archives


if __name__ == "__main__":
    try:
        build_images()
    except DevclusterError as error:
        print(f"images: {error}", file=sys.stderr)
        raise SystemExit(1) from None
