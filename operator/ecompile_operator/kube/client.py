"""A thin asynchronous client over aiohttp, which Kopf already brings.

The `kubernetes` package finds the server and the credentials; requests go through one aiohttp session, so that no
thread is needed per request or watch.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from ecompile_crds.names import FIELD_MANAGER
from kubernetes import config as kube_config
from kubernetes.client import Configuration

from .errors import Conflict, Unavailable, from_status
from .kinds import Kind

Manifest = dict[str, Any]
Count = Callable[[str, str, str], None]
"""Told of each request: method (or WATCH), path, status (`none` where no answer came)."""

REQUEST_TIMEOUT_SECONDS = 15.0
PAGE_SIZE = 500
SILENCE_SECONDS = 120.0
"""A watch that brings nothing for this long is taken for dead; the server sends a bookmark every minute."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    items: Sequence[Manifest]
    version: str
    """Resource version of the whole list: a watch can begin there."""


def _not_counted(method: str, path: str, status: str) -> None:
    """Nobody asks."""


def load_configuration() -> Configuration:
    """In-cluster credentials where there are any, else the kubeconfig that KUBECONFIG names."""
    configuration = Configuration()
    try:
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped upstream
    except kube_config.ConfigException:
        kube_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped upstream
    return configuration


class KubeClient:
    """Requests to one API server. Every failure is a KubeError."""

    def __init__(self, configuration: Configuration, *, count: Count = _not_counted) -> None:
        self._configuration = configuration
        self._count = count
        self._session: aiohttp.ClientSession | None = None
        self.answers = 0
        """Answers of the server, good or bad, since the start."""

    async def __aenter__(self) -> KubeClient:
        context = ssl.create_default_context(cafile=self._configuration.ssl_ca_cert)
        if self._configuration.cert_file:
            context.load_cert_chain(self._configuration.cert_file, self._configuration.key_file)
        connector = aiohttp.TCPConnector(ssl=context, limit=64)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def _headers(self) -> dict[str, str]:
        hook = self._configuration.refresh_api_key_hook
        if hook is not None:
            hook(self._configuration)
        auth = self._configuration.auth_settings().get("BearerToken")
        return {"Authorization": str(auth["value"])} if auth is not None else {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """One request and its JSON answer.

        Raises a KubeError.
        """
        text = await self._send(method, path, query=query, body=body, content_type=content_type)
        try:
            return json.loads(text) if text else {}
        except ValueError as error:
            raise Unavailable(f"{method} {path}: {error}") from error

    async def text(self, path: str, *, query: Mapping[str, str] | None = None) -> str:
        """GET of something that is not JSON: a log, or what a pod answers through the API server.

        Raises a KubeError.
        """
        return await self._send("GET", path, query=query, body=None, content_type="", accept="*/*")

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        accept: str = "application/json",
    ) -> str:
        assert self._session is not None, "use the client as a context manager"
        headers = {**self._headers(), "Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                method,
                self._configuration.host + path,
                params=dict(query or {}),
                data=json.dumps(body) if body is not None else None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            ) as response:
                text = await response.text()
                self.answers += 1
                self._count(method, path, str(response.status))
                if response.status >= 400:
                    raise from_status(response.status, _message(text))
                return text
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._count(method, path, "none")
            raise Unavailable(f"{method} {path}: {error or type(error).__name__}") from error

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        return await self.request("GET", kind.path(namespace, name))

    async def create(self, kind: Kind, namespace: str | None, manifest: Manifest) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER}
        return await self.request("POST", kind.path(namespace), query=query, body=manifest)

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str | None = None) -> Manifest:
        """Server-side apply with our field manager; our fields win."""
        meta = manifest["metadata"]
        return await self.request(
            "PATCH",
            kind.path(meta.get("namespace"), meta["name"], subresource),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=manifest,
            content_type=APPLY,
        )

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """PUT; fails with Conflict where `resourceVersion` is no longer current."""
        meta = manifest["metadata"]
        return await self.request("PUT", kind.path(meta["namespace"], meta["name"]), body=manifest)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        return await self.request("PATCH", kind.path(namespace, name), body=patch, content_type=MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        await self.request("DELETE", kind.path(namespace, name), query={"propagationPolicy": "Background"})

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Manifest], str]:
        """All objects and the resource version to watch from. For few; `pages` takes less memory."""
        items: list[Manifest] = []
        version = ""
        async for page in self.pages(kind, namespace, labels=labels, fields=fields):
            items += page.items
            version = page.version
        return items, version

    async def pages(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        """All objects in pages of 500.

        Raises Gone where the list took so long that its later pages are no longer kept.
        """
        query = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self.request("GET", kind.path(namespace), query=query)
            items = [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or []]
            meta = page.get("metadata", {})
            yield Page(items, str(meta.get("resourceVersion", "")))
            if not meta.get("continue"):
                return
            query["continue"] = meta["continue"]

    async def watch(
        self, kind: Kind, namespace: str | None, *, labels: str, resource_version: str, timeout_seconds: int
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Events (type, object) until the server ends the stream.

        Raises Gone where the resource version is too old, Unavailable where the connection breaks.
        """
        assert self._session is not None
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            **({"labelSelector": labels} if labels else {}),
        }
        try:
            async with self._session.get(
                self._configuration.host + kind.path(namespace),
                params=query,
                headers=self._headers(),
                timeout=aiohttp.ClientTimeout(total=timeout_seconds + 15, sock_connect=5, sock_read=SILENCE_SECONDS),
            ) as response:
                self._count("WATCH", kind.path(namespace), str(response.status))
                if response.status >= 400:
                    raise from_status(response.status, _message(await response.text()))
                buffer = b""
                async for chunk in response.content.iter_any():
                    buffer += chunk
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        if not line.strip():
                            continue
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            status = event["object"]
                            raise from_status(int(status.get("code", 500)), str(status.get("message", "watch failed")))
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"watch {kind.plural}: {error or type(error).__name__}") from error


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text[:500]


async def ensure(client: KubeClient, kind: Kind, namespace: str, manifest: Manifest) -> Manifest | None:
    """Create unless it exists; the new object where it was created."""
    try:
        return await client.create(kind, namespace, manifest)
    except Conflict:
        return None


async def find(client: KubeClient, kind: Kind, namespace: str, name: str) -> Manifest | None:
    """One object by a list of one: a consistent read that needs the verb `list` only."""
    items, _ = await client.list(kind, namespace, fields=f"metadata.name={name}")
    return items[0] if items else None
