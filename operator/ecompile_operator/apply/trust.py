"""Per namespace: the key that signs bundles, and what Pods need in order to trust bundles and the operator."""

from __future__ import annotations

import base64

from ecompile_crds.names import SIGNING_PUBLIC_KEY, SIGNING_SECRET

from ..kube.client import KubeClient, ensure
from ..kube.errors import NotFound
from ..kube.kinds import CONFIGMAP, SECRET
from ..specs.config import build_signing_secret, build_trust


class TrustKeeper:
    """Makes the signing Secret once per namespace, and keeps the trust ConfigMap current."""

    def __init__(self, client: KubeClient, *, ca_certificate: str) -> None:
        self._client = client
        self._ca_certificate = ca_certificate
        self._done: set[str] = set()

    async def ensure(self, namespace: str) -> None:
        """Make what is missing. An existing key is never replaced: bundles signed with it stay valid.

        Raises KubeError.
        """
        if namespace in self._done:
            return
        try:
            secret = await self._client.get(SECRET, namespace, SIGNING_SECRET)
        except NotFound:
            await ensure(self._client, SECRET, namespace, build_signing_secret(namespace))
            secret = await self._client.get(SECRET, namespace, SIGNING_SECRET)
        public_key = base64.b64decode(secret["data"][SIGNING_PUBLIC_KEY]).decode()
        await self._client.apply(
            CONFIGMAP, build_trust(namespace, public_key=public_key, ca_certificate=self._ca_certificate)
        )
        self._done.add(namespace)
