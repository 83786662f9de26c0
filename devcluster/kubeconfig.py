"""Kubeconfigs, and the static tokens by which the API server knows their users."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path


class Users:
    """The cluster's own users. The API server reads their tokens once, when it starts."""

    def __init__(self, keys: Path, server: str) -> None:
        self._tokens = keys / "tokens.csv"
        self._authority = base64.b64encode((keys / "ca.crt").read_bytes()).decode()
        self._server = server
        self._lines: list[str] = []

    def add(self, kubeconfig: Path, user: str, group: str = "") -> None:
        """Write a kubeconfig for `user` in `group`; everything it needs is inside, so it can be copied."""
        token = secrets.token_hex(16)
        self._lines.append(f'{token},{user},{user},"{group}"\n')
        _write_secret(self._tokens, "".join(self._lines))
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "devcluster",
                    "cluster": {"server": self._server, "certificate-authority-data": self._authority},
                }
            ],
            "users": [{"name": "devcluster", "user": {"token": token}}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "devcluster"}}],
            "current-context": "devcluster",
        }
        _write_secret(kubeconfig, json.dumps(content, indent=1) + "\n")


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
