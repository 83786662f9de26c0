"""The three images from the Dockerfile, built with buildah and kept by content: `python -m demo.images`."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

from devcluster import images, node, packages
from devcluster.console import DevclusterError, run, run_long, say
from devcluster.lock import exclusive
from devcluster.paths import CACHE, IMAGES

ROOT = Path(__file__).parent.parent
VERSION = "0.1.0"
TARGETS = ("operator", "serving", "worker")
SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "hatch_build.py",
    "requirements",
    "crds/ecompile_crds",
    "operator/ecompile_operator",
    "workers/ecompile_workers",
)
LEFT_OUT = {".pyc", ".so", ".partial"}
STORE = CACHE / "containers"
"""Layers of earlier builds: after a change of ours only the last ones are made again."""
CERTIFICATES = "/etc/ssl/certs:/etc/ssl/certs:ro"
"""This machine's authorities, for the build only. buildah hands proxy variables over by itself; neither is kept."""


def name_of(target: str) -> str:
    """Image name as the chart has it by default."""
    return f"ecompile/{target}:{VERSION}"


def content_key(base: Path) -> str:
    """Digest of everything that goes into the images."""
    digest = hashlib.sha256(base.name.encode())
    for source in SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            if file.suffix not in LEFT_OUT:
                digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def build_images() -> dict[str, Path]:
    """OCI archives by target. What is there is used: minutes the first time, seconds after a change of ours.

    Raises DevclusterError where a build fails.
    """
    packages.require(["buildah", "mmdebstrap"])
    base = images.base_archive()
    archives = {target: IMAGES / f"ecompile-{target}.tar" for target in TARGETS}
    marker = IMAGES / "ecompile.key"
    with exclusive("images"):
        key = content_key(base)
        if marker.exists() and marker.read_text() == key and all(path.exists() for path in archives.values()):
            return archives
        marker.unlink(missing_ok=True)
        for target, archive in archives.items():
            _build(target, archive, base)
        marker.write_text(key)
    return archives


def load_images() -> None:
    """Build what is missing and import it into the running cluster."""
    for archive in build_images().values():
        images.load(archive)


def _build(target: str, archive: Path, base: Path) -> None:
    started = time.monotonic()
    run_long(
        [
            *(*_buildah(), "bud", "--isolation", "chroot", "--network", "host", "--layers", "--target", target),
            *("--volume", CERTIFICATES, "--build-arg", f"BASE_IMAGE=oci-archive:{base}"),
            *("--build-arg", "WITH_TORCH=0", "-t", name_of(target), ROOT),
        ],
        what=f"building image {name_of(target)}",
    )
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    reference = f"oci-archive:{partial}:docker.io/{name_of(target)}"
    run([*_buildah(), "push", "-q", name_of(target), reference], what="writing the image")
    partial.rename(archive)
    packed, seconds = archive.stat().st_size / 1e6, time.monotonic() - started
    say(f"image {name_of(target)}: {_size(target)}, {packed:.0f} MB compressed, built in {seconds:.0f} s")


def _size(target: str) -> str:
    """Size of an image when unpacked, base included."""
    listed = json.loads(run([*_buildah(), "images", "--json", name_of(target)], what="listing images"))
    return str(listed[0]["size"])


def _buildah() -> list[str]:
    return ["buildah", "--root", str(STORE), "--runroot", str(STORE / "run"), "--storage-driver", _driver()]


def _driver() -> str:
    """overlay where the kernel can put one on the cache's file system; else vfs, which copies every layer."""
    STORE.mkdir(parents=True, exist_ok=True)
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [(len(point), kind) for _, point, kind, *_ in mounts if STORE.is_relative_to(point)]
    known = "overlay" in Path("/proc/filesystems").read_text()
    return "overlay" if known and max(inside)[1] != "overlay" else "vfs"


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.images", description=__doc__)
    parser.add_argument("--load", action="store_true", help="import them into the running development cluster")
    arguments = parser.parse_args()
    try:
        for target, archive in build_images().items():
            print(f"{name_of(target):<28} {_size(target):>8}  {archive}")
        if arguments.load or node.is_running():
            load_images()
    except DevclusterError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
