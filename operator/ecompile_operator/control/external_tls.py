"""The control stream's certificate where someone else makes and renews it (cert-manager): read, never written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from ecompile_crds.names import TLS_SECRET

from ..kube.client import KubeClient
from ..kube.errors import NotFound
from ..kube.kinds import SECRET
from .tls import ServerIdentity

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0


def read_identity(data: dict[str, str] | None) -> tuple[ServerIdentity | None, str]:
    """The identity in `data` of the Secret, or None and what is missing."""
    if data is None:
        return None, f"Secret {TLS_SECRET} is not there yet; does cert-manager run, and is the Certificate ready?"
    if not data.get("ca.crt"):
        return None, (
            f"Secret {TLS_SECRET} has no ca.crt, which pods check the operator by; use an issuer with a CA of its own "
            "(tls.certManager.issuerRef), not one of ACME."
        )
    try:
        identity = ServerIdentity.from_data({**data, "ca.key": ""})
        x509.load_pem_x509_certificate(identity.certificate)
        serialization.load_pem_private_key(identity.key, password=None)
    except (KeyError, ValueError, TypeError) as error:
        return (
            None,
            f"Secret {TLS_SECRET}: tls.crt or tls.key cannot be read ({error!r}); delete it to have it made anew.",
        )
    return identity, ""


class ExternalCertificate:
    """Reads the Secret: at the start until it is there, later to see whether it was replaced."""

    def __init__(
        self, client: KubeClient, namespace: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._sleep = sleep

    async def wait(self) -> ServerIdentity:
        """The identity, once it is there; says what it waits for. Raises KubeError."""
        told = ""
        while True:
            identity, problem = read_identity(await self._data())
            if identity is not None:
                return identity
            if problem != told:
                logger.warning("%s", problem)
                told = problem
            await self._sleep(WAIT_SECONDS)

    async def replaced(self, identity: ServerIdentity) -> bool:
        """Whether a readable Secret has another certificate than `identity`. Raises KubeError."""
        found, _ = read_identity(await self._data())
        return found is not None and (found.certificate, found.key) != (identity.certificate, identity.key)

    async def _data(self) -> dict[str, str] | None:
        try:
            secret = await self._client.get(SECRET, self._namespace, TLS_SECRET)
        except NotFound:
            return None
        data: dict[str, str] = secret.get("data") or {}
        return data
