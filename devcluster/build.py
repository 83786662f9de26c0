"""Go binaries in the cache: what is missing or out of date is built, what is there is reused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from . import toolchain
from .console import run_long, say
from .lock import exclusive
from .packages import install_packages
from .paths import BIN, SOURCES

__all__ = ["build_all", "build_helm", "build_kubernetes", "build_pause", "install_packages"]

KUBERNETES_COMMANDS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
"""Names under which the one Kubernetes binary is called."""
KEPT = 2
"""Builds of one program that stay in the cache: this one and the one before."""


def build_all() -> None:
    """Build everything that is not in the cache yet. Interrupted builds leave nothing half-written."""
    build_pause()
    build_kubernetes()
    build_coredns()
    build_helm()


def build_kubernetes() -> Path:
    """The Kubernetes binary and its names: all that an API server alone needs."""
    binary = _build("kubernetes", "kube", "./", flags=_version_flags())
    for command in KUBERNETES_COMMANDS:
        _link(command, "kube")
    return binary


def build_coredns() -> Path:
    """Name service for Services."""
    return _build("coredns", "coredns", "./")


def build_helm() -> Path:
    """Helm."""
    return _build("helm", "helm", "helm.sh/helm/v3/cmd/helm")


def build_pause() -> Path:
    """The program in the pause image."""
    return _build("pause", "pause", "./")


def _version_flags() -> str:
    """Kubernetes reports the version that its module has."""
    text = (SOURCES / "kubernetes" / "go.mod").read_text()
    match = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", text)
    assert match, "go.mod requires k8s.io/kubernetes"
    prefix = "-X k8s.io/component-base/version."
    return f"{prefix}gitVersion=v{match[1]} {prefix}gitMajor={match[2]} {prefix}gitMinor={match[3]}"


def _key(directory: Path, flags: str) -> str:
    """Digest of everything that the binary depends on."""
    digest = hashlib.sha256(f"{toolchain.version()}\0{flags}\0".encode())
    for path in sorted(directory.iterdir()):
        if path.name in ("go.mod", "go.sum") or path.suffix == ".go":
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(module: str, name: str, package: str, *, flags: str = "") -> Path:
    """Build one binary into the cache unless it is there, named by its inputs; return its stable name."""
    target = BIN / f"{name}-{_key(SOURCES / module, flags)}"
    if not target.exists():
        with exclusive("build"):
            if not target.exists():
                _compile(SOURCES / module, target, package, flags)
                _forget_old(name)
    _link(name, target.name)
    return BIN / name


def _compile(directory: Path, target: Path, package: str, flags: str) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    program = toolchain.go()
    say(f"building {directory.name} with Go {toolchain.version()} (once; the first time takes minutes)")
    partial = target.with_suffix(".partial")
    env = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    run_long(
        [program, "build", "-v", "-trimpath", "-ldflags", f"-s -w {flags}".strip(), "-o", partial, package],
        what=f"building {directory.name}",
        counted="modules fetched and packages compiled",
        cwd=directory,
        env=env,
    )
    partial.rename(target)
    say(f"built {directory.name}: {target.stat().st_size / 1e6:.0f} MB")


def _forget_old(name: str) -> None:
    """Two checkouts that share a cache must not build in turns; more than that is waste."""
    builds = [path for path in BIN.glob(f"{name}-*") if re.fullmatch(rf"{name}-[0-9a-f]{{16}}", path.name)]
    for path in sorted(builds, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        path.unlink()


def _link(name: str, target: str) -> None:
    link = BIN / name
    if link.is_symlink() and link.readlink() == Path(target):
        return
    temporary = BIN / f".{name}.link"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)
