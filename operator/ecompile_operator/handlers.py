"""Kopf's part: events of HybridModels go into the cache. No timers, daemons, finalizers or annotations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import kopf
from ecompile_crds.names import GROUP, VERSION

from .kube.client import load_configuration
from .observe.cache import Cache


class EndlessBackoff:
    """Waits between attempts, without end: by default Kopf gives up on the API server and ends the operator."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0)
        while True:
            yield 5.0 * random.uniform(0.5, 1.0)


def register(registry: kopf.OperatorRegistry, cache: Cache, *, namespaces: tuple[str, ...] = ()) -> None:
    """Put the handlers into `registry`. `namespaces`: those to watch; all where empty.

    Event handlers are coroutines although they wait for nothing: Kopf runs plain functions in other threads, and
    cache and queue belong to the event loop's.
    """

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo:
        """The same server and credentials as our own client; read again when a token has expired."""
        configuration = load_configuration()
        auth = configuration.auth_settings().get("BearerToken")
        scheme, _, token = str(auth["value"]).partition(" ") if auth is not None else ("", "", "")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.watching.server_timeout = 240
        settings.watching.client_timeout = 270
        settings.networking.error_backoffs = EndlessBackoff()
        # With names given, Kopf would look for namespaces that match them, which rights in those alone do not allow;
        # and an endless back-off would try for ever instead of taking the names as they are.
        settings.scanning.disabled = bool(namespaces)

    @kopf.on.event(GROUP, VERSION, "hybridmodels", registry=registry)
    async def model_changed(type: str | None, body: kopf.Body, **_: Any) -> None:
        cache.put_model("deleted" if type == "DELETED" else "applied", dict(body))
