"""Alertmanager's webhook: its payload, who may call, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from ecompile_crds.errors import DataError
from ecompile_crds.routing import RoutingTable
from ecompile_operator.control.alertmanager import parse
from ecompile_operator.control.hub import FORGET_AFTER, Hub
from ecompile_operator.control.webhook import PATH, AlertWebhook, WebhookToken
from ecompile_operator.decide.observed import AlertKind
from hypothesis import given
from hypothesis import strategies as st

from ..fake_api import FakeClient

KEY = ("team-a", "net")
START = datetime(2026, 1, 1, tzinfo=UTC)


def alert(status: str = "firing", **labels: str) -> dict[str, Any]:
    """As Alertmanager sends it."""
    ours = {"alertname": "EcompileDrift", "ecompile_rollback": "Drift", "namespace": "team-a", "model": "net"}
    return {
        "status": status,
        "labels": {**ours, "segment": "0", **labels},
        "annotations": {"summary": "delta is 0.4", "value": "0.4", "limit": "0.002"},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "abc",
    }


def payload(*alerts: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "ecompile", "alerts": list(alerts)}


def body(*alerts: dict[str, Any]) -> bytes:
    return json.dumps(payload(*alerts)).encode()


def table(generation: int) -> RoutingTable:
    return RoutingTable(model="net", namespace="team-a", life="life", generation=generation, segments=())


def test_an_alert_is_read_with_its_figures() -> None:
    notices, ignored = parse(body(alert()))
    assert not ignored
    notice = notices[0]
    assert (notice.namespace, notice.model, notice.firing) == ("team-a", "net", True)
    assert (notice.alert.kind, notice.alert.segment, notice.alert.value, notice.alert.limit) == (
        AlertKind.DRIFT,
        0,
        0.4,
        0.002,
    )
    assert notice.alert.detail == "EcompileDrift: delta is 0.4"


@pytest.mark.parametrize(
    ("labels", "text", "ours"),
    [
        ({"ecompile_rollback": "Sadness"}, "ecompile_rollback: 'Sadness'; use one of Breaker", True),
        ({"segment": "first"}, "label segment: 'first'", True),
        ({"segment": "64"}, "0 to 63", True),
        ({"segment": "²"}, "label segment", True),
        ({"model": ""}, "label model is missing", True),
        ({"namespace": ""}, "label namespace is missing", True),
    ],
)
def test_an_alert_that_cannot_be_used_is_named_and_the_others_count(
    labels: dict[str, str], text: str, ours: bool
) -> None:
    notices, ignored = parse(body(alert(**labels), alert()))
    assert len(notices) == 1
    assert [(i.name, i.ours) for i in ignored] == [("EcompileDrift", ours)]
    assert text in ignored[0].reason


def test_alerts_of_others_are_no_fault() -> None:
    other = alert()
    del other["labels"]["ecompile_rollback"]
    assert [i.ours for i in parse(body(other))[1]] == [False]


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "body: not JSON"),
        (b"[" * 100_000, "body: not JSON"),
        (b"[]", "body"),
        (b'{"version": "3", "alerts": []}', "version"),
        (b'{"version": "4"}', "alerts: Field required"),
        (b'{"version": "4", "alerts": [{"status": "smouldering", "labels": {}}]}', "alerts.0.status"),
        (b'{"version": "4", "alerts": [{"status": "firing", "labels": {"a": 1}}]}', "alerts.0.labels.a"),
    ],
)
def test_a_payload_that_is_none_is_refused_by_its_field(sent: bytes, text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(sent)
    assert caught.value.message.startswith(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(labels=st.dictionaries(st.sampled_from(["namespace", "model", "segment", "ecompile_rollback"]), st.text()))
def test_whatever_the_labels_say_each_alert_is_taken_or_ignored(labels: dict[str, str]) -> None:
    sent = {**alert(), "labels": labels}
    notices, ignored = parse(body(sent))
    assert len(notices) + len(ignored) == 1


@given(st.binary(max_size=64) | json_values.map(lambda v: json.dumps(v).encode()))
def test_no_body_does_more_than_be_refused(sent: bytes) -> None:
    with pytest.raises(DataError):
        parse(sent)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def test_a_repetition_keeps_the_generation_that_it_was_first_heard_at() -> None:
    clock = Clock()
    hub = Hub(lambda key: None, clock)
    sent = parse(body(alert()))[0][0]
    assert not hub.alert(KEY, sent.identity, sent.alert)
    for generation in (3, 5):
        hub.push(table(generation))
        assert hub.alert(KEY, sent.identity, sent.alert)
        found = hub.remote_alerts(KEY)
        assert [(r.first_generation, r.alert.generation) for r in found] == [(3, generation)]
    clock.now += FORGET_AFTER + timedelta(seconds=1)
    assert hub.remote_alerts(KEY) == ()
    hub.alert(KEY, sent.identity, sent.alert)
    assert hub.remote_alerts(KEY)[0].first_generation == 3
    hub.resolve(KEY, sent.identity)
    assert hub.remote_alerts(KEY) == ()
    later = parse(body({**alert(), "startsAt": "2026-01-02T00:00:00Z"}))[0][0]
    hub.alert(KEY, later.identity, later.alert)
    assert hub.remote_alerts(KEY)[0].first_generation == 5


def call(
    sent: bytes, *, token: str | None = "right", leading: bool = True, prepare: Callable[[Hub], None] | None = None
) -> tuple[int, dict[str, Any], Hub]:
    """One call of a webhook that knows team-a/net, whose routing table has generation 3."""

    async def go() -> tuple[int, dict[str, Any], Hub]:
        api = FakeClient()
        secret = {"metadata": {"name": "ecompile-alertmanager"}, "data": {"token": "cmlnaHQK"}}
        api.objects["Secret", "system", "ecompile-alertmanager"] = secret
        hub = Hub(lambda key: None, lambda: START)
        hub.push(table(3))
        if prepare is not None:
            prepare(hub)
        checked = WebhookToken(api, "system", lambda: 0.0)
        webhook = AlertWebhook(hub, checked, leading=lambda: leading, known=lambda key: key == KEY)
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        async with TestClient(TestServer(webhook.application())) as client:
            answer = await client.post(PATH, data=sent, headers=headers)
            return answer.status, await answer.json(), hub

    return asyncio.run(go())


def test_an_accepted_alert_reaches_the_model() -> None:
    status, answer, hub = call(body(alert()))
    assert (status, answer) == (200, {"accepted": 1, "ignored": []})
    assert hub.remote_alerts(KEY)[0].alert.detail == "EcompileDrift: delta is 0.4"


@pytest.mark.parametrize(("token", "text"), [(None, "a bearer token is missing"), ("wrong", "not the token in Secret")])
def test_strangers_are_refused(token: str | None, text: str) -> None:
    status, answer, hub = call(body(alert()), token=token)
    assert status == 401 and text in answer["error"]
    assert hub.remote_alerts(KEY) == ()


def test_whoever_does_not_lead_says_so() -> None:
    assert call(body(alert()), leading=False)[0] == 503


def test_what_cannot_be_used_is_answered_with_sentences() -> None:
    assert call(b"{")[0] == 400
    status, answer, _ = call(body(alert(model="other")))
    assert status == 400 and "no HybridModel team-a/other" in answer["ignored"][0]["reason"]
    status, answer, _ = call(body(alert(model="other"), alert()))
    assert status == 200 and answer["accepted"] == 1 and len(answer["ignored"]) == 1


def test_before_anything_is_decided_it_is_to_be_sent_again() -> None:
    status, answer, _ = call(body(alert()), prepare=lambda hub: hub.forget(KEY))
    assert status == 503 and "send it again" in answer["error"]


def test_a_token_is_made_once_and_read_again_when_it_was_replaced() -> None:
    async def go() -> None:
        api, now = FakeClient(), 0.0
        token = WebhookToken(api, "system", lambda: now)
        await token.read()
        place = ("Secret", "system", "ecompile-alertmanager")
        made = base64.b64decode(api.objects[place]["data"]["token"])
        assert len(made) >= 32 and await token.matches(made)
        api.objects[place] = {**api.objects[place], "data": {"token": base64.b64encode(b"new").decode()}}
        assert not await token.matches(b"new")
        now = 11.0
        assert await token.matches(b"new")
        assert not await token.matches(made)

    asyncio.run(go())
