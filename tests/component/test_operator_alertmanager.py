"""Alertmanager's webhook, from the HTTPS call to the pod that serves neural."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecompile_crds.routing import RouteMode

from devcluster import build
from devcluster.api import ApiServer

from .operator_world import SYSTEM, Operator, World, eventually, operator
from .test_operator_life import ServingPod, phase, to_serving

ROLLBACK_SECONDS = 5.0
"""The promise is 2 s at the 99th percentile on a quiet machine; this one may be busy with other tests."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def secret(world: World, name: str, key: str) -> bytes:
    found = eventually(f"Secret {name}", lambda: world.get("secret", SYSTEM, name))
    return base64.b64decode(found["data"][key])


def send(world: World, started: Operator, token: str, *, namespace: str, starts_at: str) -> tuple[int, str]:
    """As Alertmanager does, with the CA of the control stream."""
    line = eventually("webhook", lambda: started.says("alerts webhook on port"))
    port = line["message"].rsplit(" ", 1)[1]
    authority = secret(world, "ecompile-control-tls", "ca.crt").decode()
    labels = {"alertname": "EcompileDrift", "ecompile_rollback": "Drift", "model": "net", "segment": "0"}
    alert = {
        "status": "firing",
        "labels": {**labels, "namespace": namespace},
        "annotations": {"summary": "The mean relative error over two minutes is 0.4.", "value": "0.4"},
        "startsAt": starts_at,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": "f00d",
    }
    body = {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "ecompile", "alerts": [alert]}
    request = urllib.request.Request(
        f"https://localhost:{port}/api/v1/alerts",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        context = ssl.create_default_context(cadata=authority)
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_alert_by_alertmanager_has_all_pods_serve_neural(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    environ = {"ECO_ALERTS_WEBHOOK": "true", "ECO_ALERTS_PORT": "0"}
    with operator(world, tmp_path, environ=environ) as started:
        to_serving(world, namespace)
        pod = ServingPod(world, started, namespace, "net", "net-0")
        try:
            phase(world, namespace, "Promoted")
            eventually("compiled", lambda: pod.table is not None and pod.table.segments[0].mode is RouteMode.COMPILED)
            token = secret(world, "ecompile-alertmanager", "token").decode()
            status, text = send(world, started, "not it", namespace=namespace, starts_at="2026-01-01T00:00:00Z")
            assert status == 401 and "ecompile-alertmanager" in text
            status, text = send(world, started, token, namespace="elsewhere", starts_at="2026-01-01T00:00:00Z")
            assert status == 400 and "no HybridModel elsewhere/net" in text
            assert pod.table is not None and pod.table.segments[0].mode is RouteMode.COMPILED

            sent_at = time.monotonic()
            status, text = send(world, started, token, namespace=namespace, starts_at="2026-01-01T00:00:00Z")
            assert status == 200, text
            eventually("neural", lambda: pod.table is not None and pod.table.segments[0].mode is RouteMode.NEURAL)
            assert time.monotonic() - sent_at < ROLLBACK_SECONDS
            rollback = world.list("compiledmodules", namespace)[0]["status"]["lastRollback"]
            assert (rollback["reason"], rollback["value"]) == ("Drift", 0.4)
            assert "(Alertmanager)" in rollback["detail"]
        finally:
            pod.stop()
