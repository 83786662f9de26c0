"""The certificate with which serving pods and Jobs reach the control stream, where it asks for one."""

from __future__ import annotations

from pathlib import Path

from ecompile_crds.names import CLIENT_CERTIFICATE, CLIENT_KEY


def client_certificate(directory: Path) -> tuple[bytes | None, bytes | None]:
    """Certificate and key of this Pod's namespace, read at each connection because they are replaced in place; Nones
    where the control stream asks for none."""
    try:
        return (directory / CLIENT_CERTIFICATE).read_bytes(), (directory / CLIENT_KEY).read_bytes()
    except OSError:
        return None, None
