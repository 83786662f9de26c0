"""HTTPS server for Alertmanager's webhook: the second, slower path to the decision that a pod's own alert leads to.

Who calls is known by a bearer token from a Secret of ours. Only the leader listens. Decides nothing.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import ssl
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable

from aiohttp import web
from ecompile_crds.errors import EcompileError
from ecompile_crds.names import LABEL_MANAGED_BY, MANAGED_BY, WEBHOOK_SECRET

from ..kube.client import KubeClient, ensure
from ..kube.errors import KubeError, NotFound
from ..kube.kinds import SECRET
from .alertmanager import Ignored, parse
from .hub import Hub, ModelKey
from .tls import ServerIdentity

logger = logging.getLogger(__name__)

PATH = "/api/v1/alerts"
MAX_BODY_BYTES = 1 << 20
TOKEN_KEY = "token"
REREAD_SECONDS = 10.0
"""After a wrong token the Secret is read again, but not more often than this: it may have been replaced."""


class WebhookToken:
    """The token that callers must present: made once, read again when it may have been replaced."""

    def __init__(self, client: KubeClient, namespace: str, clock: Callable[[], float]) -> None:
        self._client = client
        self._namespace = namespace
        self._clock = clock
        self._token = b""
        self._read_at = float("-inf")

    async def matches(self, presented: bytes) -> bool:
        """Whether this is the token. Raises KubeError where that cannot be found out."""
        if self._token and hmac.compare_digest(presented, self._token):
            return True
        if self._clock() - self._read_at < REREAD_SECONDS:
            return False
        await self.read()
        return bool(self._token) and hmac.compare_digest(presented, self._token)

    async def read(self) -> None:
        """Read the Secret; make it where there is none. Raises KubeError."""
        self._read_at = self._clock()
        try:
            found = await self._client.get(SECRET, self._namespace, WEBHOOK_SECRET)
        except NotFound:
            await ensure(self._client, SECRET, self._namespace, self._new_secret())
            found = await self._client.get(SECRET, self._namespace, WEBHOOK_SECRET)
        self._token = b64decode((found.get("data") or {}).get(TOKEN_KEY, "")).strip()
        if not self._token:
            logger.warning("Secret %s/%s has no %s; no alert is taken", self._namespace, WEBHOOK_SECRET, TOKEN_KEY)

    def _new_secret(self) -> dict[str, object]:
        token = secrets.token_urlsafe(32).encode()
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": WEBHOOK_SECRET,
                "namespace": self._namespace,
                "labels": {LABEL_MANAGED_BY: MANAGED_BY},
            },
            "type": "Opaque",
            "data": {TOKEN_KEY: b64encode(token).decode()},
        }


class AlertWebhook:
    """POST /api/v1/alerts: gives each alert to the hub, and says what was not acted upon."""

    def __init__(
        self, hub: Hub, token: WebhookToken, *, leading: Callable[[], bool], known: Callable[[ModelKey], bool]
    ) -> None:
        self._hub = hub
        self._token = token
        self._leading = leading
        self._known = known

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PATH, self.receive)
        return app

    async def receive(self, request: web.Request) -> web.Response:
        """200 with what was accepted and ignored; 400 where nothing could be used, so that Alertmanager shows it."""
        if not self._leading():
            return _answer(503, error="this operator does not lead; send it again")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return _answer(401, error="header Authorization: a bearer token is missing; set http_config.authorization")
        try:
            if not await self._token.matches(token.strip().encode()):
                return _answer(401, error=f"header Authorization: not the token in Secret {WEBHOOK_SECRET}")
        except KubeError as error:
            return _answer(503, error=f"the token cannot be checked now: {error}")
        try:
            notices, ignored = parse(await request.read())
        except EcompileError as error:
            logger.warning("alerts webhook: %s", error.message)
            return _answer(400, error=error.message)
        accepted, undecided = 0, ""
        for notice in notices:
            key = (notice.namespace, notice.model)
            if not self._known(key):
                reason = f"there is no HybridModel {key[0]}/{key[1]} in what this operator watches"
                ignored.append(Ignored(name=notice.alert.detail.partition(":")[0], reason=reason, ours=True))
                continue
            if not notice.firing:
                self._hub.resolve(key, notice.identity)
            elif not self._hub.alert(key, notice.identity, notice.alert):
                undecided = f"{key[0]}/{key[1]}"
                continue
            accepted += 1
        if undecided:
            return _answer(503, error=f"no routing table of {undecided} is in force yet; send it again")
        wrong = [each for each in ignored if each.ours]
        for each in wrong:
            logger.warning("alerts webhook: %s: %s", each.name, each.reason)
        told = [{"alert": each.name, "reason": each.reason} for each in ignored]
        return _answer(400 if wrong and not accepted else 200, accepted=accepted, ignored=told)


def _answer(status: int, **fields: object) -> web.Response:
    return web.json_response(fields, status=status)


def server_context(identity: ServerIdentity) -> ssl.SSLContext:
    """TLS with the control stream's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile() as file:  # made with mode 0600; ssl reads certificates from files only
        file.write(identity.key + b"\n" + identity.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def start_webhook(webhook: AlertWebhook, identity: ServerIdentity, port: int) -> tuple[web.AppRunner, int]:
    """Listen. Returns the runner, to be cleaned up, and the port it got (of IPv4 where 0 was asked for)."""
    runner = web.AppRunner(webhook.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, None, port, ssl_context=server_context(identity))
    await site.start()
    addresses = sorted(runner.addresses, key=len)  # (host, port) before (host, port, flow, scope)
    return runner, int(addresses[0][1])
