"""Keys, certificates and kubeconfigs of a cluster; made anew at each start."""

from __future__ import annotations

import secrets
from pathlib import Path

from .console import run

DAYS = "365"


def make_key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path], what="making a key")
    path.chmod(0o600)


def make_ca(directory: Path) -> None:
    """`ca.key` and `ca.crt`."""
    make_key(directory / "ca.key")
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-new",
            "-key",
            directory / "ca.key",
            "-subj",
            "/CN=devcluster-ca",
            "-days",
            DAYS,
            "-out",
            directory / "ca.crt",
        ],
        what="making the CA",
    )


def make_certificate(directory: Path, name: str, subject: str, extensions: str) -> None:
    """`<name>.key` and `<name>.crt`, signed by the CA."""
    make_key(directory / f"{name}.key")
    request, extension_file = directory / f"{name}.csr", directory / f"{name}.ext"
    run(
        ["openssl", "req", "-new", "-key", directory / f"{name}.key", "-subj", subject, "-out", request],
        what="a request",
    )
    extension_file.write_text(extensions)
    run(
        [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            directory / "ca.crt",
            "-CAkey",
            directory / "ca.key",
            "-CAcreateserial",
            "-days",
            DAYS,
            "-extfile",
            extension_file,
            "-out",
            directory / f"{name}.crt",
        ],
        what="signing a certificate",
    )


def make_all(directory: Path, *, addresses: list[str]) -> None:
    """Everything that the API server needs to identify itself and to sign service account tokens."""
    make_ca(directory)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    alternatives = ",".join([f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses])
    make_certificate(
        directory, "server", "/CN=kube-apiserver", f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n"
    )
    make_certificate(
        directory, "kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client", "extendedKeyUsage=clientAuth\n"
    )
    make_key(directory / "sa.key")


class Tokens:
    """Static tokens of the cluster's own users."""

    def __init__(self, directory: Path, server: str) -> None:
        self._file = directory / "tokens.csv"
        self._ca = directory / "ca.crt"
        self._server = server
        self._lines: list[str] = []

    def kubeconfig(self, path: Path, user: str, group: str = "") -> None:
        """A kubeconfig for `user` in `group`; its token is known to the API server once it starts."""
        token = secrets.token_hex(16)
        self._lines.append(f'{token},{user},{user},"{group}"')
        self._file.write_text("\n".join(self._lines) + "\n")
        self._file.chmod(0o600)
        path.write_text(
            f"""apiVersion: v1
kind: Config
clusters: [{{name: devcluster, cluster: {{server: "{self._server}", certificate-authority: {self._ca}}}}}]
users: [{{name: {user.replace(":", "-")}, user: {{token: {token}}}}}]
contexts: [{{name: devcluster, context: {{cluster: devcluster, user: {user.replace(":", "-")}}}}}]
current-context: devcluster
"""
        )
        path.chmod(0o600)
