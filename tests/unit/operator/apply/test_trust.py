"""What Pods need in order to trust: made once per namespace, put right when it is gone, never written needlessly."""

from __future__ import annotations

import asyncio

from ecompile_operator.apply.trust import RECHECK_SECONDS, SETTLED_SECONDS, TrustKeeper

from ..fake_api import FakeClient

TRUST = ("ConfigMap", "test", "ecompile-trust")
SECRET = ("Secret", "test", "ecompile-signing")


class Stage:
    """A keeper over a fake API server."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.seconds = 0.0
        self.keeper = TrustKeeper(self.client, ca_certificate="CA", clock=lambda: self.seconds)

    def ensure(self, uid: str = "model-1") -> list[str]:
        """The writes it took."""
        before = len(self.client.calls)
        asyncio.run(self.keeper.ensure("test", uid))
        return [call for call in self.client.calls[before:] if call.split()[0] in ("create", "apply")]


def test_key_and_trust_are_made_once() -> None:
    stage = Stage()
    assert len(stage.ensure()) == 2
    calls = len(stage.client.calls)
    assert stage.ensure() == [] and len(stage.client.calls) == calls


def test_client_certificate_is_made_where_the_stream_asks_for_one_and_replaced_when_it_runs_out() -> None:
    stage, made = Stage(), iter([{"tls.crt": "a"}, None, {"tls.crt": "b"}])
    seen: list[object] = []

    def issue(namespace: str, data: dict[str, str] | None) -> dict[str, str] | None:
        seen.append(data)
        return next(made)

    stage.keeper = TrustKeeper(stage.client, ca_certificate="CA", clock=lambda: stage.seconds, issue=issue)
    assert len(stage.ensure()) == 3
    stage.seconds += RECHECK_SECONDS + 1
    assert stage.ensure() == []
    stage.seconds += RECHECK_SECONDS + 1
    assert len(stage.ensure()) == 1
    assert seen == [None, {"tls.crt": "a"}, {"tls.crt": "a"}]


def test_another_model_reads_but_writes_nothing() -> None:
    stage = Stage()
    stage.ensure()
    assert stage.ensure("model-2") == []


def test_many_models_of_a_namespace_are_not_a_read_each_and_none_is_forgotten() -> None:
    stage = Stage()
    stage.ensure()
    calls = len(stage.client.calls)
    stage.ensure("model-2")
    assert len(stage.client.calls) == calls
    stage.seconds += SETTLED_SECONDS
    stage.ensure("model-2")
    assert len(stage.client.calls) > calls, "its next decision looks again"


def test_a_namespace_made_anew_gets_a_new_key_with_its_first_model() -> None:
    stage = Stage()
    stage.ensure()
    stage.client.objects.clear()
    stage.seconds += SETTLED_SECONDS
    assert len(stage.ensure("model-2")) == 2
    assert {TRUST, SECRET} <= set(stage.client.objects)


def test_trust_deleted_by_someone_is_made_again_with_the_same_key() -> None:
    stage = Stage()
    stage.ensure()
    key = stage.client.objects[TRUST]["data"]
    del stage.client.objects[TRUST]
    stage.seconds = RECHECK_SECONDS + 1
    stage.ensure()
    assert stage.client.objects[TRUST]["data"] == key
