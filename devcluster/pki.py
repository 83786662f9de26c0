"""Keys and certificates of a cluster; made anew at each start, so that none is worth stealing for long."""

from __future__ import annotations

from pathlib import Path

from .console import run

DAYS = "365"


def make_all(directory: Path, *, addresses: list[str]) -> None:
    """Everything that the API server needs to identify itself and to sign service account tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    _make_ca(directory)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    alternatives = ",".join([f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses])
    _make_certificate(
        directory,
        "server",
        subject="/CN=kube-apiserver",
        extensions=f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n",
    )
    _make_certificate(
        directory,
        "kubelet-client",
        subject="/O=system:masters/CN=apiserver-kubelet-client",
        extensions="extendedKeyUsage=clientAuth\n",
    )
    _make_key(directory / "sa.key")


def _openssl(*arguments: object) -> None:
    run(["openssl", *arguments], what="making keys and certificates")


def _make_key(path: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    path.chmod(0o600)


def _make_ca(directory: Path) -> None:
    """`ca.key` and `ca.crt`."""
    key = directory / "ca.key"
    _make_key(key)
    identity = ["-subj", "/CN=devcluster-ca", "-days", DAYS]
    _openssl("req", "-x509", "-new", "-key", key, *identity, "-out", directory / "ca.crt")


def _make_certificate(directory: Path, name: str, *, subject: str, extensions: str) -> None:
    """`<name>.key` and `<name>.crt`, signed by the CA."""
    key, request = directory / f"{name}.key", directory / f"{name}.csr"
    extension_file = directory / f"{name}.ext"
    _make_key(key)
    _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
    extension_file.write_text(extensions)
    authority = ["-CA", directory / "ca.crt", "-CAkey", directory / "ca.key", "-CAcreateserial"]
    signing = ["-in", request, *authority, "-days", DAYS, "-extfile", extension_file]
    _openssl("x509", "-req", *signing, "-out", directory / f"{name}.crt")
