"""Per namespace: the key that signs bundles, and what Pods need in order to trust bundles and the operator."""

from __future__ import annotations

import base64
from collections.abc import Callable

from ecompile_crds.names import CLIENT_SECRET, SIGNING_PUBLIC_KEY, SIGNING_SECRET

from ..kube.client import KubeClient, ensure, find
from ..kube.errors import NotFound, Refused
from ..kube.kinds import CONFIGMAP, SECRET
from ..specs.config import build_client_secret, build_signing_secret, build_trust

RECHECK_SECONDS = 300.0
"""A trust ConfigMap that someone deleted or changed is put right after this time."""


SETTLED_SECONDS = 5.0
"""A namespace looked at within this time is not looked at again for each model in it: after a start that would be two
reads per model. Such a model is not noted as seen, so that its next decision looks again."""


class TrustKeeper:
    """Makes the signing Secret once per namespace, and keeps the trust ConfigMap current."""

    def __init__(
        self,
        client: KubeClient,
        *,
        clock: Callable[[], float],
        ca_certificate: str = "",
        issue: Callable[[str, dict[str, str] | None], dict[str, str] | None] | None = None,
    ) -> None:
        """`issue(namespace, data)`: data of a new client certificate, None where the one there is good; not given where
        the control stream asks for none."""
        self.issue = issue
        self._client = client
        self.ca_certificate = ca_certificate
        """Of the control stream, PEM; known once this process leads."""
        self._clock = clock
        self._checked: dict[str, float] = {}
        self._models: dict[str, set[str]] = {}

    async def ensure(self, namespace: str, model_uid: str) -> None:
        """Make what is missing. An existing key is never replaced: bundles signed with it stay valid.

        A model not seen before has its namespace looked at again: it may have been deleted and made anew.
        Raises KubeError.
        """
        checked = self._checked.get(namespace)
        fresh = checked is not None and self._clock() - checked < RECHECK_SECONDS
        if fresh and model_uid in self._models[namespace]:
            return
        if checked is not None and self._clock() - checked < SETTLED_SECONDS:
            return
        try:
            secret = await self._client.get(SECRET, namespace, SIGNING_SECRET)
        except NotFound:
            await ensure(self._client, SECRET, namespace, build_signing_secret(namespace))
            secret = await self._client.get(SECRET, namespace, SIGNING_SECRET)
        encoded = (secret.get("data") or {}).get(SIGNING_PUBLIC_KEY)
        if encoded is None:
            raise Refused(
                f"Secret {namespace}/{SIGNING_SECRET} has no {SIGNING_PUBLIC_KEY}; restore it, or delete the Secret to "
                "get a new key pair (modules signed with the old one then need a new distillation)."
            )
        public_key = base64.b64decode(encoded).decode()
        wanted = build_trust(namespace, public_key=public_key, ca_certificate=self.ca_certificate)
        found = await find(self._client, CONFIGMAP, namespace, wanted["metadata"]["name"])
        if found is None or found.get("data") != wanted["data"]:
            await self._client.apply(CONFIGMAP, wanted)
        if self.issue is not None:
            secret = await find(self._client, SECRET, namespace, CLIENT_SECRET) or {}
            data = self.issue(namespace, secret.get("data"))
            if data is not None:
                await self._client.apply(SECRET, build_client_secret(namespace, data))
        if not fresh:
            self._models[namespace] = set()
        self._models[namespace].add(model_uid)
        self._checked[namespace] = self._clock()
