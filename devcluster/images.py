"""Images without a registry: the pause image, a minimal Debian with Python as base, and importing archives."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import namespaces
from .archive import add_file, write_archive
from .build import build_pause
from .configuration import PAUSE_IMAGE
from .console import DevclusterError, run_long, say
from .lock import exclusive
from .paths import IMAGES, LOGS
from .readiness import wait_until

__all__ = ["base_archive", "load", "load_all", "pause_archive", "write_archive"]

BASE_IMAGE = "ecompile.local/debian-python:1"
BASE_SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_OPTIONS = (
    "--variant=minbase",
    f"--include={BASE_PACKAGES}",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # Copies of this machine's own files.
    '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
)
BASE_DATE = "1700000000"
"""No file in the base image is newer, so that the same packages give the same bytes."""
APT_SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
"""Where this machine's own Debian mirror is named."""
IMPORT_SECONDS = 60


def pause_archive() -> Path:
    """The pause image: a static program that waits and reaps. Its file is always the newest build."""
    target, key_file = IMAGES / "pause.tar", IMAGES / "pause.key"
    content = build_pause().read_bytes()
    key = hashlib.sha256(content).hexdigest()
    if target.exists() and key_file.exists() and key_file.read_text() == key:
        return target
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        layer = Path(directory) / "layer.tar"
        with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as archive:
            add_file(archive, "pause", content, mode=0o755)
        write_archive(target, PAUSE_IMAGE, layer, entrypoint=["/pause"])
    key_file.write_text(key)
    return target


def base_archive() -> Path:
    """A minimal Debian 12 with Python 3.11, as an OCI archive that `FROM` can name. Made once, in half a minute."""
    sources = _apt_sources()
    inputs = "\0".join([BASE_SUITE, *BASE_OPTIONS, BASE_DATE, sources.read_text() if sources else ""])
    key = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    target = IMAGES / "base" / f"debian-python-{key}.oci.tar"
    if not target.exists():
        with exclusive("base-image"):
            if not target.exists():
                _make_base(target, sources)
    return target


def _make_base(target: Path, sources: Path | None) -> None:
    say("making the base image: a minimal Debian with Python")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # apt's own user reads here
        layer = directory / "root.tar"
        mirror = [sources] if sources else []
        run_long(
            ["mmdebstrap", *BASE_OPTIONS, BASE_SUITE, layer, *mirror],
            what="making the base image",
            env={"SOURCE_DATE_EPOCH": BASE_DATE},
        )
        write_archive(target, BASE_IMAGE, layer, entrypoint=[])
    say(f"base image: {target.stat().st_size / 1e6:.0f} MB")


def _apt_sources() -> Path | None:
    """This machine's apt sources, if they are for the release that is wanted; else mmdebstrap uses its default."""
    for path in map(Path, APT_SOURCES):
        if path.exists() and BASE_SUITE in path.read_text():
            return path
    return None


def load(archive: Path) -> str:
    """Import an OCI archive into the running cluster; returns the names of its images.

    Raises DevclusterError where there is no such file, no cluster, or the import fails.
    """
    if not archive.is_file():
        raise DevclusterError(f"there is no image archive {archive}.")
    # The node may not see the file (its /run is its own): it is handed over as an open one.
    with archive.open("rb") as content:
        return namespaces.capture(
            ["ctr", "--namespace", "k8s.io", "images", "import", "-"],
            what=f"importing {archive.name}",
            stdin=content,
        )


def load_all(*, gone: Callable[[], bool]) -> int:
    """Import every archive of the cache, once containerd answers; returns how many. None where the node is gone."""
    wait_until(
        lambda: _containerd_answers() or gone(),
        seconds=IMPORT_SECONDS,
        otherwise=lambda: f"containerd did not answer after {IMPORT_SECONDS} s; see {LOGS}/containerd.log.",
    )
    archives = [] if gone() else sorted(IMAGES.glob("*.tar"))
    for archive in archives:
        load(archive)
    return len(archives)


def _containerd_answers() -> bool:
    try:
        namespaces.capture(["ctr", "version"], what="asking containerd")
    except DevclusterError:
        return False
    return True
